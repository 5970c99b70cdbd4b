import Foundation

/// A request of a `.http` file, the format of editors' HTTP clients.
struct DocumentedRequest: Sendable {
  var title: String
  /// The name by which later requests refer to its response.
  var name: String?
  /// The status in its comment.
  var status = 0
  var method = ""
  var target = ""
  var headers: [(String, String)] = []
  var body = ""

  static func all(in document: String) throws -> [DocumentedRequest] {
    let text = try String(contentsOf: CommandBlock.repository.appendingPathComponent(document), encoding: .utf8)
    return try text.components(separatedBy: "\n### ").dropFirst().map { try DocumentedRequest($0) }
  }

  private init(_ text: String) throws {
    var lines = text.components(separatedBy: "\n")
    title = lines.removeFirst()
    var isBody = false
    for line in lines {
      if isBody {
        body += line
      } else if let code = line.after("# responds with ") {
        status = Int(code) ?? 0
      } else if let named = line.after("# @name ") {
        name = named
      } else if line.isEmpty {
        isBody = !method.isEmpty
      } else if method.isEmpty {
        let parts = line.split(separator: " ", maxSplits: 1).map(String.init)
        guard parts.count == 2, let path = parts[1].after("{{host}}") else {
          throw HarnessError("\(title): no request line: \(line)")
        }
        (method, target) = (parts[0], path)
      } else {
        let parts = line.split(separator: ":", maxSplits: 1).map { $0.trimmingCharacters(in: .whitespaces) }
        guard parts.count == 2 else { throw HarnessError("\(title): no header field: \(line)") }
        headers.append((parts[0], parts[1]))
      }
    }
    guard !method.isEmpty, status > 0 else { throw HarnessError("\(title): no request, or no status") }
  }

  /// Sends it with `curl`, as a reader may. Closes an event stream after a second.
  ///
  /// - Parameter bodies: the bodies of earlier responses, by the requests' names.
  func send(to server: RunningServer, after bodies: [String: [String: Any]]) async throws -> RunningServer.Response {
    var target = target
    for (name, body) in bodies {
      for (member, value) in body {
        target = target.replacingOccurrences(of: "{{\(name).response.body.\(member)}}", with: "\(value)")
      }
    }
    let isStream = headers.contains { $0.1 == "text/event-stream" }
    var arguments = ["curl", "-s", "-X", method, "-o", "answer", "-w", "%{http_code}"]
    if isStream { arguments += ["-m", "1"] }
    for (name, value) in headers { arguments += ["-H", "'\(name): \(value)'"] }
    if !body.isEmpty { arguments += ["-d", "'\(body)'"] }
    arguments.append("'\(server.url)\(target)'")
    // 28: curl's time limit ended the stream.
    let line = arguments.joined(separator: " ") + (isStream ? " || [ $? = 28 ]" : "")
    return try await withTemporaryFolder { folder in
      let printed = try await CommandBlock(document: "", heading: title, lines: [line]).run(in: folder)
      guard let status = Int(printed) else { throw HarnessError("\(title): no status: \(printed)") }
      return try .init(status: status, body: Data(contentsOf: URL(fileURLWithPath: folder + "/answer")))
    }
  }
}

extension String {
  /// The text after this prefix; nil if it has another.
  fileprivate func after(_ beginning: String) -> String? {
    hasPrefix(beginning) ? String(dropFirst(beginning.count)) : nil
  }
}
