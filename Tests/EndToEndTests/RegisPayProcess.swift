import AsyncHTTPClient
import Foundation
import NIOCore
import Synchronization
import Testing

/// A process of a program, the built `regispay` unless another is named. It is killed when the test ends, if it still
/// runs then.
final class RegisPayProcess: Sendable {
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  let pid: pid_t
  private let errorFile: String
  private let lines: AsyncStream<String>
  private let exits: AsyncStream<ChildEnding>
  private let hasEnded = Mutex(false)

  /// The folder that the test bundle and the programs are built into.
  static var buildFolder: URL {
    URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
  }

  /// Starts the program; its standard error goes to a file in `folder`.
  ///
  /// - Parameters:
  ///   - program: one on the path, instead of `regispay`.
  ///   - wrapper: what comes between `env` and the program: variables, options of `env`, and a program with its arguments
  ///     that runs it.
  init(program: String? = nil, under wrapper: [String] = [], _ arguments: [String], folder: String) throws {
    errorFile = folder + "/stderr-\(UUID().uuidString).txt"
    let output = Pipe()
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, output.fileHandleForWriting.fileDescriptor, 1)
    posix_spawn_file_actions_addopen(&actions, 2, errorFile, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    let (lines, lineContinuation) = AsyncStream<String>.makeStream()
    let (exits, exitContinuation) = AsyncStream<ChildEnding>.makeStream()
    self.lines = lines
    self.exits = exits
    // Which also sets variables and changes the directory.
    let words =
      ["/usr/bin/env"] + wrapper + [program ?? Self.buildFolder.appendingPathComponent("regispay").path] + arguments
    let pid = try spawn(words[0], Array(words.dropFirst()), &actions)
    self.pid = pid
    Thread.detachNewThread { [weak self] in
      let ending = waitForChild(pid)
      self?.hasEnded.withLock { $0 = true }
      exitContinuation.yield(ending)
      exitContinuation.finish()
    }
    // So that reading ends when the program does.
    try output.fileHandleForWriting.close()
    let handle = output.fileHandleForReading
    Thread.detachNewThread {
      var rest = Data()
      while true {
        let data = handle.availableData
        guard !data.isEmpty else { break }
        rest.append(data)
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
          lineContinuation.yield(String(decoding: rest[rest.startIndex..<end], as: UTF8.self))
          rest = Data(rest[(end + 1)...])
        }
      }
      lineContinuation.finish()
    }
  }

  deinit { signal(SIGKILL) }

  /// What it wrote to standard error so far.
  var errorText: String { (try? String(contentsOfFile: errorFile, encoding: .utf8)) ?? "" }

  func signal(_ signal: Int32) { hasEnded.withLock { if !$0 { _ = kill(pid, signal) } } }

  /// Its next line on standard output; nil when there is no more.
  func nextLine(within limit: Duration = .seconds(30)) async throws -> String? {
    try await withDeadline(limit, "a line of the program; on stderr: \(errorText)") { [lines] in
      await lines.first { _ in true }
    }
  }

  func waitForExit(within limit: Duration = .seconds(30)) async throws -> ChildEnding {
    let exit = try await withDeadline(limit, "the end of the program") { [exits] in await exits.first { _ in true } }
    guard let exit else { throw Failure(description: "the program's end was asked for twice") }
    return exit
  }
}

/// A running server, by its address.
struct RunningServer: Sendable {
  /// Lives as long as the tests do. It gives up at once when a server is gone, which is what is tested here.
  private static let client: HTTPClient = {
    var configuration = HTTPClient.Configuration()
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 512
    configuration.connectionPool.retryConnectionEstablishment = false
    return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
  }()

  let process: RegisPayProcess
  let url: String

  /// Starts `regispay serve` on a free port and waits until it says that it is ready. Segments are small, so that a
  /// new log is quick to make and a load crosses from one to the next. Log lines are text, from `warning` on.
  ///
  /// - Parameters:
  ///   - arguments: further ones of `serve`.
  ///   - port: 0 for a free one.
  ///   - wrapper: a program with its arguments that runs the server, such as one that makes system calls fail.
  ///   - errorFolder: for its standard error, which stays open here; `directory` unless another is named.
  static func start(
    directory: String, arguments: [String] = [], port: Int = 0, under wrapper: [String] = [], errorFolder: String? = nil
  ) async throws -> RunningServer {
    let process = try RegisPayProcess(
      under: wrapper,
      [
        "serve", "--dir", directory + "/data", "--port", "\(port)", "--log-level", "warning", "--log-format", "text",
        "--segment-bytes", "1048576",
      ] + arguments,
      folder: errorFolder ?? directory)
    guard let line = try await process.nextLine(), let url = line.split(separator: " ").last, url.hasPrefix("http://")
    else { throw RegisPayProcess.Failure(description: "no address was printed; on stderr: \(process.errorText)") }
    return RunningServer(process: process, url: String(url))
  }

  func stopGracefully() async throws -> ChildEnding {
    process.signal(SIGTERM)
    return try await process.waitForExit()
  }

  func killHard() async throws {
    process.signal(SIGKILL)
    _ = try await process.waitForExit()
  }

  struct Response {
    var status: Int
    var body: Data

    /// The body as a JSON object; fails the test when it is none.
    func object() throws -> [String: Any] {
      guard let object = try JSONSerialization.jsonObject(with: body) as? [String: Any] else {
        throw RegisPayProcess.Failure(description: "no JSON object: \(String(decoding: body, as: UTF8.self))")
      }
      return object
    }
  }

  func get(_ path: String, headers: [(String, String)] = []) async throws -> Response {
    try await send(.GET, path, headers: headers)
  }

  func post(
    _ path: String, _ body: String, headers: [(String, String)] = [("Content-Type", "application/json")]
  ) async throws -> Response {
    try await send(.POST, path, headers: headers, body: body)
  }

  func put(_ path: String, _ body: String) async throws -> Response {
    try await send(.PUT, path, headers: [("Content-Type", "application/json")], body: body)
  }

  func patch(_ path: String, _ body: String) async throws -> Response {
    try await send(.PATCH, path, headers: [("Content-Type", "application/json")], body: body)
  }

  func delete(_ path: String) async throws -> Response { try await send(.DELETE, path, headers: []) }

  private func send(
    _ method: HTTPMethod, _ path: String, headers: [(String, String)], body: String? = nil
  ) async throws -> Response {
    var request = HTTPClientRequest(url: url + path)
    request.method = .init(rawValue: method.rawValue)
    for (name, value) in headers { request.headers.add(name: name, value: value) }
    if let body { request.body = .bytes(ByteBuffer(string: body)) }
    let response = try await Self.client.execute(request, timeout: .seconds(20))
    let bytes = try await response.body.collect(upTo: 256 << 20)
    return Response(status: Int(response.status.code), body: Data(bytes.readableBytesView))
  }

  enum HTTPMethod: String { case GET, POST, PUT, PATCH, DELETE }

  /// Creates a payment and returns its id.
  func createPayment(_ amount: String, _ currency: String = "GBP") async throws -> String {
    let response = try await post("/api/payment/create", "{\"amount\":\(amount),\"currency\":\"\(currency)\"}")
    guard response.status == 200, let id = try response.object()["paymentId"] as? String else {
      throw RegisPayProcess.Failure(
        description: "status \(response.status): \(String(decoding: response.body, as: UTF8.self))")
    }
    return id
  }

  func status(of id: String) async throws -> String? {
    try await get("/api/v1/payments/\(id)").object()["status"] as? String
  }

  /// Asks until the payment is in this state.
  func wait(for id: String, status wanted: String, within limit: Duration) async throws {
    let deadline = ContinuousClock.now + limit
    var status: String?
    repeat {
      status = try await self.status(of: id)
      if status == wanted { return }
      // Polls the server: outside of it there is no event to wait for.
      try await Task.sleep(for: .milliseconds(10))
    } while ContinuousClock.now < deadline
    throw RegisPayProcess.Failure(description: "payment \(id) is \(status ?? "missing") after \(limit)")
  }
}

/// Runs `work`, and fails when it takes longer than `limit`.
func withDeadline<Value: Sendable>(
  _ limit: Duration, _ what: String, _ work: @escaping @Sendable () async throws -> Value
) async throws -> Value {
  try await withThrowingTaskGroup(of: Value.self) { group in
    group.addTask { try await work() }
    group.addTask {
      try await Task.sleep(for: limit)
      throw RegisPayProcess.Failure(description: "waited \(limit) for \(what)")
    }
    defer { group.cancelAll() }
    guard let value = try await group.next() else { throw CancellationError() }
    return value
  }
}

/// Waits for something without an event, by polling.
func eventually(
  _ what: Comment, within limit: Duration, sourceLocation: SourceLocation = #_sourceLocation,
  _ condition: () async throws -> Bool
) async throws {
  let deadline = ContinuousClock.now + limit
  while try await !condition() {
    try #require(ContinuousClock.now < deadline, what, sourceLocation: sourceLocation)
    try await Task.sleep(for: .milliseconds(20))
  }
}

/// A new folder, removed at the end.
func withTemporaryFolder<Value>(_ work: (String) async throws -> Value) async throws -> Value {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("regispay-\(UUID().uuidString)").path
  try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(atPath: folder) }
  return try await work(folder)
}
