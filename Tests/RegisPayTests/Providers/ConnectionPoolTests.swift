import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

/// A server whose bytes in response to each request a test decides.
private final class ScriptedServer: Sendable {
  enum Reply: Sendable {
    case response(String)
    case close
    case nothing
  }

  struct Seen: Sendable, Hashable {
    /// Both from 0, the request within its connection.
    var connection: Int
    var request: Int
    var body: String
  }

  private let state = Mutex<(seen: [Seen], connectionCount: Int)>(([], 0))
  private let reply: @Sendable (Seen) -> Reply

  private init(_ reply: @escaping @Sendable (Seen) -> Reply) { self.reply = reply }

  var seen: [Seen] { state.withLock { $0.seen } }

  static func ok(_ body: String = "{}", _ fields: String = "") -> Reply {
    .response("HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\(fields)\r\n\(body)")
  }

  /// Runs one on a free port while `work` runs.
  static func run(
    _ reply: @escaping @Sendable (Seen) -> Reply, _ work: (ScriptedServer, _ url: String) async throws -> Void
  ) async throws {
    let server = ScriptedServer(reply)
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let number = server.state.withLock { state in
            state.connectionCount += 1
            return state.connectionCount - 1
          }
          try channel.pipeline.syncOperations.configureHTTPServerPipeline(withPipeliningAssistance: false)
          try channel.pipeline.syncOperations.addHandler(Handler(server, number))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let result: Result<Void, any Error>
    do {
      result = .success(try await work(server, "http://127.0.0.1:\(channel.localAddress?.port ?? 0)"))
    } catch {
      result = .failure(error)
    }
    try await channel.close()
    try result.get()
  }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart

    private let server: ScriptedServer
    private let connection: Int
    private var requestCount = 0
    private var body = ""

    init(_ server: ScriptedServer, _ connection: Int) {
      self.server = server
      self.connection = connection
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch unwrapInboundIn(data) {
      case .head: body = ""
      case .body(let part): body += String(decoding: part.readableBytesView, as: UTF8.self)
      case .end:
        let seen = Seen(connection: connection, request: requestCount, body: body)
        requestCount += 1
        server.state.withLock { $0.seen.append(seen) }
        switch server.reply(seen) {
        // Bypasses the encoder, which would correct deliberate errors.
        case .response(let text):
          _ = try? context.pipeline.syncOperations.context(handlerType: HTTPResponseEncoder.self)
            .writeAndFlush(NIOAny(IOData.byteBuffer(ByteBuffer(string: text))), promise: nil)
        case .close: context.close(promise: nil)
        case .nothing: break
        }
      }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }
}

@Suite("Kept-alive pool for calls")
struct ConnectionsTests {
  /// The default limits are out of reach, however busy the machine is.
  private func connections(
    _ url: String, timeLimit: Duration = .seconds(3_600), responseLimit: Int = 1_000, connectionLimit: Int = 8
  ) throws -> ConnectionPool {
    // One loop, so that there is one pool.
    try ConnectionPool(
      try Endpoint(url), timeLimit: timeLimit, idleTimeLimit: .seconds(3_600), responseLimit: responseLimit,
      connectionLimit: connectionLimit, group: MultiThreadedEventLoopGroup.singleton.next())
  }

  /// Opens a connection and leaves it free: the next call goes out on it at once.
  private func warm(_ pool: ConnectionPool) async throws {
    try await eventually("a call gets a response in time") { status(await send(pool, "warm")) == 200 }
  }

  private func send(
    _ pool: ConnectionPool, _ body: String = "x", isRepeatable: Bool = true
  ) async -> Result<ClientResponse, CallFailure> {
    let head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: "/",
      headers: ["Host": pool.endpoint.authority, "Content-Length": "\(body.utf8.count)"])
    return await pool.send(.init(head: head, body: ByteBuffer(string: body), isRepeatable: isRepeatable))
  }

  private func status(_ result: Result<ClientResponse, CallFailure>) -> Int? { try? result.get().status }

  @Test("a connection is reused, unless the response says that it will be closed")
  func kept() async throws {
    try await ScriptedServer.run({
      $0.request == 1 ? ScriptedServer.ok("{}", "Connection: close\r\n") : ScriptedServer.ok()
    }) { server, url in
      let pool = try connections(url)
      defer { pool.close() }
      for _ in 0..<4 { #expect(status(await send(pool)) == 200) }
      #expect(server.seen.map(\.connection) == [0, 0, 1, 1])
    }
  }

  @Test("a call on a kept-alive connection that is just being closed is repeated once, and only if it is repeatable")
  func stale() async throws {
    try await ScriptedServer.run({ $0.request == 1 ? .close : ScriptedServer.ok() }) { server, url in
      let pool = try connections(url)
      defer { pool.close() }
      #expect(status(await send(pool, "first")) == 200)
      #expect(status(await send(pool, "second")) == 200)
      #expect(server.seen.map(\.body) == ["first", "second", "second"])
      guard case .failure(.broken) = await send(pool, "third", isRepeatable: false) else {
        Issue.record("a call that must not be repeated was")
        return
      }
      #expect(server.seen.map(\.body) == ["first", "second", "second", "third"])
    }
  }

  @Test("the response to a call that was sent twice says so")
  func repeats() async throws {
    try await ScriptedServer.run({ $0.request == 1 ? .close : ScriptedServer.ok() }) { _, url in
      let pool = try connections(url)
      defer { pool.close() }
      #expect(try await send(pool).get().isToRepeat == false)
      #expect(try await send(pool).get().isToRepeat)
    }
  }

  @Test(
    "a response that denies an effect counts on a reused connection once a new one confirms it",
    arguments: [401, 402, 404, 410, 413, 422])
  func no(status: Int) async throws {
    let no = ScriptedServer.Reply.response("HTTP/1.1 \(status) No\r\nContent-Length: 0\r\n\r\n")
    // The second call of the first connection meets a stray response; the third call meets a refusal of its own.
    try await ScriptedServer.run({ seen in
      seen.body == "no" || (seen.connection == 0 && seen.request == 1) ? no : ScriptedServer.ok()
    }) { server, url in
      let pool = try connections(url)
      defer { pool.close() }
      #expect(self.status(await send(pool, "first")) == 200)
      #expect(self.status(await send(pool, "second")) == 200)
      #expect(server.seen.map(\.body) == ["first", "second", "second"])
      let response = try await send(pool, "no").get()
      #expect(response.status == status && !response.isToRepeat)
      #expect(server.seen.map(\.body) == ["first", "second", "second", "no", "no"])
      #expect(Set(server.seen.suffix(3).map(\.connection)).count == 2, "each on a connection of its own")
    }
  }

  @Test("429 on a reused connection proves nothing, and the call is not sent again at once")
  func busy() async throws {
    let busy = ScriptedServer.Reply.response("HTTP/1.1 429 No\r\nContent-Length: 0\r\n\r\n")
    try await ScriptedServer.run({ _ in busy }) { server, url in
      let pool = try connections(url)
      defer { pool.close() }
      let responses = [try await send(pool).get(), try await send(pool).get()]
      #expect(responses.map(\.status) == [429, 429])
      #expect(responses.map(\.isUnconfirmed) == [false, true])
      #expect(server.seen.map(\.connection) == [0, 0])
    }
  }

  @Test("a refusal that a new connection does not confirm may belong to another call")
  func unlike() async throws {
    try await ScriptedServer.run({ seen in
      if seen.body != "no" { return ScriptedServer.ok() }
      let status = seen.connection == 0 ? 422 : 410
      return .response("HTTP/1.1 \(status) No\r\nContent-Length: 0\r\n\r\n")
    }) { _, url in
      let pool = try connections(url)
      defer { pool.close() }
      #expect(status(await send(pool)) == 200)
      let response = try await send(pool, "no").get()
      #expect(response.status == 410 && response.isToRepeat)
    }
  }

  @Test("a new connection that closes without a response is a failure, and not retried for ever")
  func closed() async throws {
    try await ScriptedServer.run({ _ in .close }) { server, url in
      let pool = try connections(url)
      guard case .failure(.broken) = await send(pool) else {
        Issue.record("no failure")
        return
      }
      #expect(server.seen.count == 1)
    }
  }

  @Test("a response that does not come in time fails the call, and its connection is not reused")
  func time() async throws {
    try await ScriptedServer.run({ $0.body == "silent" ? .nothing : ScriptedServer.ok() }) { server, url in
      let pool = try connections(url, timeLimit: .milliseconds(100))
      defer { pool.close() }
      try await warm(pool)
      #expect(await send(pool, "silent") == .failure(.timeout(after: .milliseconds(100))))
      try await eventually("the server has seen it") { server.seen.contains { $0.body == "silent" } }
      try await warm(pool)
      let seen = server.seen
      let silent = try #require(seen.firstIndex { $0.body == "silent" })
      #expect(seen[..<silent].contains { $0.connection == seen[silent].connection }, "on a connection that was open")
      #expect(seen[(silent + 1)...].allSatisfy { $0.connection != seen[silent].connection })
    }
  }

  @Test(
    "a response that trickles in, is cut off, is too long or is not HTTP fails the call",
    arguments: [
      "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + String(repeating: "x", count: 5_000),
      "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200 OK\r\nContent-Le", "hello\r\n\r\n",
      "HTTP/1.1 102 Processing\r\n\r\n",
    ])
  func malformed(_ response: String) async throws {
    try await ScriptedServer.run({ _ in .response(response) }) { _, url in
      let pool = try connections(url, timeLimit: .milliseconds(300))
      defer { pool.close() }
      guard case .failure = await send(pool) else {
        Issue.record("no failure")
        return
      }
    }
  }

  @Test("with all pool in use calls wait, and all are sent")
  func limited() async throws {
    try await ScriptedServer.run({ _ in ScriptedServer.ok() }) { server, url in
      let pool = try connections(url, connectionLimit: 2)
      defer { pool.close() }
      let good = await withTaskGroup(of: Int?.self) { group in
        for number in 0..<100 { group.addTask { status(await send(pool, "\(number)")) } }
        return await group.reduce(0) { $0 + ($1 == 200 ? 1 : 0) }
      }
      #expect(good == 100)
      #expect(Set(server.seen.map(\.connection)).isSubset(of: [0, 1]))
    }
  }

  @Test("calls that wait for a connection that never becomes free fail at their time limit")
  func starved() async throws {
    try await ScriptedServer.run({ $0.body == "warm" ? ScriptedServer.ok() : .nothing }) { server, url in
      let pool = try connections(url, timeLimit: .milliseconds(200), connectionLimit: 1)
      defer { pool.close() }
      try await warm(pool)
      let failures = await withTaskGroup { group in
        for _ in 0..<5 { group.addTask { await send(pool) } }
        return await group.reduce(into: [CallFailure?: Int]()) { counts, result in
          if case .failure(let failure) = result { counts[failure, default: 0] += 1 } else { counts[nil] = 1 }
        }
      }
      // One was sent, and those that began so late that the connection became free in their time; no byte of the others
      // was.
      let sent = failures[.timeout(after: .milliseconds(200))] ?? 0
      #expect(failures.values.reduce(0, +) == 5 && sent >= 1)
      #expect(failures[.unreachable("no connection within 0.2 seconds")] ?? 0 == 5 - sent)
      try await eventually("the server has seen what was sent") { server.seen.count { $0.body != "warm" } >= sent }
      #expect(server.seen.count { $0.body != "warm" } == sent)
    }
  }

  @Test("a cancelled call ends soon")
  func cancelled() async throws {
    try await ScriptedServer.run({ _ in .nothing }) { server, url in
      let pool = try connections(url, timeLimit: .seconds(60))
      defer { pool.close() }
      let call = Task { await send(pool) }
      try await eventually("it is under way") { server.seen.count == 1 }
      call.cancel()
      #expect(await call.value == .failure(.broken("cancelled")))
      let late = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        return await send(pool)
      }
      #expect(await late.value == .failure(.unreachable("cancelled")))
      #expect(server.seen.count == 1)
    }
  }

  @Test("a refused connection is reported")
  func refused() async throws {
    let pool = try connections("http://127.0.0.1:1")
    guard case .failure(.unreachable(let reason)) = await send(pool) else {
      Issue.record("no failure")
      return
    }
    #expect(reason.contains("refused"))
  }

  @Test(
    "a base URL is read",
    arguments: [
      ("http://psp.example", false, "psp.example", 80, "", "psp.example"),
      ("https://psp.example/", true, "psp.example", 443, "", "psp.example"),
      ("http://127.0.0.1:8080/psp//", false, "127.0.0.1", 8080, "/psp", "127.0.0.1:8080"),
      ("https://[::1]:9/a/b", true, "::1", 9, "/a/b", "[::1]:9"),
      ("http://[fe80::1]", false, "fe80::1", 80, "", "[fe80::1]"),
    ])
  func endpoints(_ url: String, _ isTLS: Bool, _ host: String, _ port: Int, _ prefix: String, _ authority: String)
    throws
  {
    let endpoint = try Endpoint(url)
    #expect(endpoint.isTLS == isTLS && endpoint.host == host && endpoint.port == port && endpoint.prefix == prefix)
    #expect(endpoint.authority == authority)
  }

  @Test(
    "a text that is not a base URL is refused",
    arguments: [
      "", "psp.example", "ftp://psp.example", "http://", "http://:80", "http://a:0", "http://a:65536", "http://a:x",
      "http://a b", "http://a/?x", "http://a/#x", "http://user@a", "http://a/\r\nX: y", "http://caf\u{E9}",
      "http://[::1", "http://[::1:80", "http://[::1]80", "http://[::1]x:80", "http://[a]", "http://[]", "http://::1",
      "http://a]", "http://[127.0.0.1]", "http://a:",
    ])
  func noEndpoints(_ url: String) {
    #expect(throws: EndpointError.self) { try Endpoint(url) }
  }

  @Test(
    "what is refused is shown without a user's name and password, and without a query",
    arguments: [
      "http://user:geheim@a", "user:geheim@a", "https://user:ge/heim@geheim@a:99999/b", "geheim@://",
      "http://user:gehe?im=geheim@a/b", "http://u@a/v1/logs?token=geheim", "http://u@a?geheim?geheim",
    ])
  func userinfo(_ url: String) throws {
    let error = try #require(throws: EndpointError.self) { try Endpoint(url) }
    #expect(!"\(error)".contains("geheim") && !"\(error)".contains("user:"), "\(error)")
    #expect("\(error)".contains("…@"))
  }
}
