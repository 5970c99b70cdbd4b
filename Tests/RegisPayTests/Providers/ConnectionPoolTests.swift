import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

/// A server that does what a test says with each request, byte for byte.
private final class ScriptedServer: Sendable {
  enum Reply: Sendable {
    case answer(String)
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
    .answer("HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\(fields)\r\n\(body)")
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
        // Past the encoder, which would mend what is wrong on purpose.
        case .answer(let text):
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

@Suite("Kept-alive connections for calls")
struct ConnectionsTests {
  /// Without limits of its own nothing ends by time, however busy the machine is.
  private func connections(
    _ url: String, timeLimit: Duration = .seconds(3_600), answerLimit: Int = 1_000, connectionLimit: Int = 8
  ) throws -> ConnectionPool {
    // One loop, so that there is one pool.
    try ConnectionPool(
      try Endpoint(url), timeLimit: timeLimit, idleTimeLimit: .seconds(3_600), answerLimit: answerLimit,
      connectionLimit: connectionLimit, group: MultiThreadedEventLoopGroup.singleton.next())
  }

  /// Opens a connection and leaves it free: the next call goes out on it at once, in whatever time that takes.
  private func warm(_ connections: ConnectionPool) async throws {
    try await eventually("a call is answered in time") { status(await send(connections, "warm")) == 200 }
  }

  private func send(
    _ connections: ConnectionPool, _ body: String = "x", isRepeatable: Bool = true
  ) async -> Result<HTTPAnswer, CallFailure> {
    let head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: "/",
      headers: ["Host": connections.endpoint.authority, "Content-Length": "\(body.utf8.count)"])
    return await connections.send(.init(head: head, body: ByteBuffer(string: body), isRepeatable: isRepeatable))
  }

  private func status(_ result: Result<HTTPAnswer, CallFailure>) -> Int? { try? result.get().status }

  @Test("a connection is used again, unless its answer says that it will be closed")
  func kept() async throws {
    try await ScriptedServer.run({
      $0.request == 1 ? ScriptedServer.ok("{}", "Connection: close\r\n") : ScriptedServer.ok()
    }) { server, url in
      let connections = try connections(url)
      defer { connections.close() }
      for _ in 0..<4 { #expect(status(await send(connections)) == 200) }
      #expect(server.seen.map(\.connection) == [0, 0, 1, 1])
    }
  }

  @Test("a call that meets a kept connection just as it is closed is made again, once, and only if it may be")
  func stale() async throws {
    try await ScriptedServer.run({ $0.request == 1 ? .close : ScriptedServer.ok() }) { server, url in
      let connections = try connections(url)
      defer { connections.close() }
      #expect(status(await send(connections, "first")) == 200)
      #expect(status(await send(connections, "second")) == 200)
      #expect(server.seen.map(\.body) == ["first", "second", "second"])
      guard case .failure(.broken) = await send(connections, "third", isRepeatable: false) else {
        Issue.record("a call that must not be repeated was")
        return
      }
      #expect(server.seen.map(\.body) == ["first", "second", "second", "third"])
    }
  }

  @Test("an answer to a call that was sent twice says so")
  func repeats() async throws {
    try await ScriptedServer.run({ $0.request == 1 ? .close : ScriptedServer.ok() }) { _, url in
      let connections = try connections(url)
      defer { connections.close() }
      #expect(try await send(connections).get().isOfRepeat == false)
      #expect(try await send(connections).get().isOfRepeat)
    }
  }

  @Test("a no on a connection that answered before counts once a new one says the same", arguments: [402, 410, 422])
  func no(status: Int) async throws {
    let no = ScriptedServer.Reply.answer("HTTP/1.1 \(status) No\r\nContent-Length: 0\r\n\r\n")
    // The second call of the first connection meets an answer that was sent for nobody; the third a no that is its own.
    try await ScriptedServer.run({ seen in
      seen.body == "no" || (seen.connection == 0 && seen.request == 1) ? no : ScriptedServer.ok()
    }) { server, url in
      let connections = try connections(url)
      defer { connections.close() }
      #expect(self.status(await send(connections, "first")) == 200)
      #expect(self.status(await send(connections, "second")) == 200)
      #expect(server.seen.map(\.body) == ["first", "second", "second"])
      let answer = try await send(connections, "no").get()
      #expect(answer.status == status && !answer.isOfRepeat)
      #expect(server.seen.map(\.body) == ["first", "second", "second", "no", "no"])
      #expect(Set(server.seen.suffix(3).map(\.connection)).count == 2, "each on a connection of its own")
    }
  }

  @Test("a no that a new connection does not repeat may be to another call")
  func unlike() async throws {
    try await ScriptedServer.run({ seen in
      if seen.body != "no" { return ScriptedServer.ok() }
      let status = seen.connection == 0 ? 422 : 410
      return .answer("HTTP/1.1 \(status) No\r\nContent-Length: 0\r\n\r\n")
    }) { _, url in
      let connections = try connections(url)
      defer { connections.close() }
      #expect(status(await send(connections)) == 200)
      let answer = try await send(connections, "no").get()
      #expect(answer.status == 410 && answer.isOfRepeat)
    }
  }

  @Test("a new connection that closes without an answer is a failure, not tried for ever")
  func closed() async throws {
    try await ScriptedServer.run({ _ in .close }) { server, url in
      let connections = try connections(url)
      guard case .failure(.broken) = await send(connections) else {
        Issue.record("no failure")
        return
      }
      #expect(server.seen.count == 1)
    }
  }

  @Test("an answer that does not come in time fails the call, and its connection is not used again")
  func time() async throws {
    try await ScriptedServer.run({ $0.body == "silent" ? .nothing : ScriptedServer.ok() }) { server, url in
      let connections = try connections(url, timeLimit: .milliseconds(100))
      defer { connections.close() }
      try await warm(connections)
      #expect(await send(connections, "silent") == .failure(.noAnswer(within: .milliseconds(100))))
      try await eventually("the server has seen it") { server.seen.contains { $0.body == "silent" } }
      try await warm(connections)
      let seen = server.seen
      let silent = try #require(seen.firstIndex { $0.body == "silent" })
      #expect(seen[..<silent].contains { $0.connection == seen[silent].connection }, "on a connection that was open")
      #expect(seen[(silent + 1)...].allSatisfy { $0.connection != seen[silent].connection })
    }
  }

  @Test(
    "an answer that trickles in, is cut off, is too long or is no HTTP fails the call",
    arguments: [
      "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + String(repeating: "x", count: 5_000),
      "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200 OK\r\nContent-Le", "hello\r\n\r\n",
      "HTTP/1.1 102 Processing\r\n\r\n",
    ])
  func malformed(_ answer: String) async throws {
    try await ScriptedServer.run({ _ in .answer(answer) }) { _, url in
      let connections = try connections(url, timeLimit: .milliseconds(300))
      defer { connections.close() }
      guard case .failure = await send(connections) else {
        Issue.record("no failure")
        return
      }
    }
  }

  @Test("with all connections in use calls wait, and all are made")
  func limited() async throws {
    try await ScriptedServer.run({ _ in ScriptedServer.ok() }) { server, url in
      let connections = try connections(url, connectionLimit: 2)
      defer { connections.close() }
      let good = await withTaskGroup(of: Int?.self) { group in
        for number in 0..<100 { group.addTask { status(await send(connections, "\(number)")) } }
        return await group.reduce(0) { $0 + ($1 == 200 ? 1 : 0) }
      }
      #expect(good == 100)
      #expect(Set(server.seen.map(\.connection)).isSubset(of: [0, 1]))
    }
  }

  @Test("calls that wait for a connection that never comes free fail by their time limit")
  func starved() async throws {
    try await ScriptedServer.run({ $0.body == "warm" ? ScriptedServer.ok() : .nothing }) { server, url in
      let connections = try connections(url, timeLimit: .milliseconds(200), connectionLimit: 1)
      defer { connections.close() }
      try await warm(connections)
      let failures = await withTaskGroup { group in
        for _ in 0..<5 { group.addTask { await send(connections) } }
        return await group.reduce(into: [CallFailure?: Int]()) { counts, result in
          if case .failure(let failure) = result { counts[failure, default: 0] += 1 } else { counts[nil] = 1 }
        }
      }
      // One was sent, and with it those that began so late that the connection came free in their time; of the others no
      // byte was.
      let sent = failures[.noAnswer(within: .milliseconds(200))] ?? 0
      #expect(failures.values.reduce(0, +) == 5 && sent >= 1)
      #expect(failures[.unreachable("no connection within 0.2 seconds")] ?? 0 == 5 - sent)
      try await eventually("the server has seen what was sent") { server.seen.count { $0.body != "warm" } >= sent }
      #expect(server.seen.count { $0.body != "warm" } == sent)
    }
  }

  @Test("a cancelled call ends soon")
  func cancelled() async throws {
    try await ScriptedServer.run({ _ in .nothing }) { server, url in
      let connections = try connections(url, timeLimit: .seconds(60))
      defer { connections.close() }
      let call = Task { await send(connections) }
      try await eventually("it is under way") { server.seen.count == 1 }
      call.cancel()
      #expect(await call.value == .failure(.broken("given up")))
      let late = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        return await send(connections)
      }
      #expect(await late.value == .failure(.unreachable("given up")))
      #expect(server.seen.count == 1)
    }
  }

  @Test("nobody listening is said")
  func refused() async throws {
    let connections = try connections("http://127.0.0.1:1")
    guard case .failure(.unreachable(let reason)) = await send(connections) else {
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
    "what is no base URL is refused",
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
    "what is refused is shown without a user's name and password",
    arguments: ["http://user:geheim@a", "user:geheim@a", "https://user:ge/heim@geheim@a:99999/b", "geheim@://"])
  func userinfo(_ url: String) throws {
    let error = try #require(throws: EndpointError.self) { try Endpoint(url) }
    #expect(!"\(error)".contains("geheim") && !"\(error)".contains("user:"), "\(error)")
    #expect("\(error)".contains("…@"))
  }
}
