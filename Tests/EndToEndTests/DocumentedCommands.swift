import Foundation

/// A block of commands in a document, as a reader would copy it.
struct CommandBlock: Sendable, Hashable, CustomStringConvertible {
  /// From the repository's root.
  let document: String
  /// The nearest heading above it, without `#`.
  let heading: String
  let lines: [String]

  var description: String { "\(document), \(heading): \(lines.first ?? "")" }

  /// The documents that hold commands.
  static let documents = [
    "README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/OPERATIONS.md", "docs/INSTALL.md", "docs/PROVIDERS.md",
    "docs/WEBHOOKS.md", "docs/INTEGRATION.md",
    "docs/DURABILITY.md", "docs/FORMAT.md", "docs/SIMULATION.md", "docs/PERFORMANCE.md", "docs/ARCHITECTURE.md",
  ]

  /// What a command begins with.
  private static let programs = [
    "regispay", "logstore", ".build/", "curl", "sqlite3", "printf", "make", "swift", "umask", "mkdir", "cp", "D=", "B=",
    "Tests/", "LOGSTORE_", "OTEL_", "promtool", "amqp-", "df", "du", "ls", "date", "uptime",
  ]

  static var repository: URL {
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
  }

  /// All blocks of commands of a document: fenced as `sh`, or indented by four spaces and begun by a program's name.
  static func all(in document: String) throws -> [CommandBlock] {
    let text = try String(contentsOf: repository.appendingPathComponent(document), encoding: .utf8)
    var blocks: [CommandBlock] = []
    var heading = ""
    var block: [String] = []
    var fence: String?
    func end() {
      if let first = block.first(where: { !$0.isEmpty }), programs.contains(where: { first.hasPrefix($0) }) {
        while block.last?.isEmpty == true { block.removeLast() }
        blocks.append(CommandBlock(document: document, heading: heading, lines: block))
      }
      block = []
    }
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
      if line.hasPrefix("```") {
        if fence == "sh" { end() }
        fence = fence == nil ? String(line.dropFirst(3)) : nil
      } else if fence == "sh" {
        block.append(line)
      } else if fence == nil, line.hasPrefix("    ") {
        block.append(String(line.dropFirst(4)))
      } else if fence == nil {
        if line.hasPrefix("#") { heading = line.drop { $0 == "#" || $0 == " " }.description }
        end()
      }
    }
    end()
    return blocks
  }

  /// The block that begins with this, under this heading.
  static func first(_ document: String, _ heading: String, _ beginning: String) throws -> CommandBlock {
    let found = try all(in: document).first { $0.heading == heading && $0.lines[0].hasPrefix(beginning) }
    guard let found else {
      throw HarnessError("\(document) has no block that begins with \"\(beginning)\" under \"\(heading)\"")
    }
    return found
  }

  /// Runs the block with `bash`, which ends at the first command that fails, with the built programs on the path.
  ///
  /// - Parameters:
  ///   - replacements: what a reader puts in the place of names, addresses and directories.
  ///   - leavingOut: lines that hold this are not run.
  /// - Returns: what it printed on standard output.
  @discardableResult
  func run(
    in folder: String, replacing replacements: KeyValuePairs<String, String> = [:], leavingOut: [String] = [],
    environment: [String: String] = [:], after preamble: String = ""
  ) async throws -> String {
    var script = lines.filter { line in !leavingOut.contains { line.contains($0) } }.joined(separator: "\n")
    for (text, replacement) in replacements {
      guard script.contains(text) else { throw HarnessError("\"\(text)\" is not in the block \(self)") }
      script = script.replacingOccurrences(of: text, with: replacement)
    }
    script = script.replacingOccurrences(of: ".build/release/", with: "")
    let build = RegisPayProcess.buildFolder.path
    let variables = environment.map { "export \($0.key)='\($0.value)'\n" }.joined()
    let all = "set -euo pipefail\nexport PATH=\(build):$PATH\ncd '\(folder)'\n\(variables)\(preamble)\n\(script)\n"
    let path = folder + "/block-\(UUID().uuidString).sh"
    try all.write(toFile: path, atomically: true, encoding: .utf8)
    let output = path + ".out"
    let process = try RegisPayProcess(program: "bash", ["-c", "exec bash '\(path)' > '\(output)'"], folder: folder)
    let exit = try await process.waitForExit(within: .seconds(120))
    let printed = try String(contentsOfFile: output, encoding: .utf8)
    guard exit == .init(code: 0, isSignal: false) else {
      throw HarnessError("\(self): ended with \(exit.code)\n\(script)\n\(printed)\n\(process.errorText)")
    }
    return printed
  }
}
