import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

/// A peer that responds to each request on a connection with given bytes, whatever they are.
private final class BytePeer: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let responses: @Sendable (_ connection: Int, _ request: Int) -> (bytes: [UInt8], closes: Bool)
  private let connection: Int
  private var request = 0

  init(
    _ connection: Int, _ responses: @escaping @Sendable (_ connection: Int, _ request: Int) -> ([UInt8], closes: Bool)
  ) {
    self.connection = connection
    self.responses = responses
  }

  /// Requests here are short: each arrives in one piece.
  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let (bytes, closes) = responses(connection, request)
    request += 1
    let channel = context.channel
    channel.writeAndFlush(ByteBuffer(bytes: bytes)).whenComplete { _ in if closes { channel.close(promise: nil) } }
  }

  static func run(
    _ responses: @escaping @Sendable (_ connection: Int, _ request: Int) -> ([UInt8], closes: Bool),
    _ work: (_ url: String) async throws -> Void
  ) async throws {
    let count = Mutex(0)
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let number = count.withLock { count in
            count += 1
            return count - 1
          }
          try channel.pipeline.syncOperations.addHandler(BytePeer(number, responses))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let result: Result<Void, any Error>
    do {
      result = .success(try await work("http://127.0.0.1:\(channel.localAddress?.port ?? 0)"))
    } catch {
      result = .failure(error)
    }
    try await channel.close()
    try result.get()
  }
}

@Suite("A peer that sends anything")
struct HostilePeerTests {
  private static let good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

  /// No call here ends at its time limit: each peer responds or closes. The limit is out of a busy machine's reach.
  private func connections(_ url: String) throws -> ConnectionPool {
    try ConnectionPool(
      try Endpoint(url), timeLimit: .seconds(3_600), idleTimeLimit: .seconds(3_600), responseLimit: 1_000,
      connectionLimit: 8,
      group: MultiThreadedEventLoopGroup.singleton.next())
  }

  private func send(_ connections: ConnectionPool) async -> Result<ClientResponse, CallFailure> {
    let head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: "/",
      headers: ["Host": connections.endpoint.authority, "Content-Length": "2"])
    return await connections.send(.init(head: head, body: ByteBuffer(string: "{}"), isRepeatable: false))
  }

  @Test("every status from 000 to 999 is a response with that number; longer ones are failures")
  func statuses() async throws {
    let status = Mutex((text: "000", isInterim: false))
    // After an interim response the connection ends instead of a response.
    try await BytePeer.run({ _, _ in
      let (text, isInterim) = status.withLock { $0 }
      return (Array("HTTP/1.1 \(text) X\r\nContent-Length: 0\r\n\r\n".utf8), isInterim)
    }) { url in
      let connections = try connections(url)
      defer { connections.close() }
      for code in Array(0...999) + Array(stride(from: 1_000, through: 9_999, by: 97)) {
        let digits = code < 10 ? "00\(code)" : code < 100 ? "0\(code)" : "\(code)"
        status.withLock { $0 = (digits, (100..<200).contains(code) && code != 101) }
        switch await send(connections) {
        case .success(let response): #expect(response.status == code && (code == 101 || !(100..<200).contains(code)))
        case .failure(let failure):
          #expect((100..<200).contains(code) || code > 999, "\(digits): \(failure)")
        }
      }
    }
  }

  static let responses: [(name: String, bytes: String, isResponse: Bool)] = [
    ("no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", true),
    ("no reason after a space", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", true),
    ("two digits", "HTTP/1.1 20 X\r\nContent-Length: 0\r\n\r\n", false),
    ("a negative status", "HTTP/1.1 -20 X\r\nContent-Length: 0\r\n\r\n", false),
    ("letters for a status", "HTTP/1.1 abc X\r\nContent-Length: 0\r\n\r\n", false),
    ("HTTP/0.9", "hello", false), ("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
    ("HTTP/1.9", "HTTP/1.9 200 OK\r\nContent-Length: 0\r\n\r\n", false),
    ("HTTP/9999.9", "HTTP/9999.9 200 OK\r\n\r\n", false), ("ICY", "ICY 200 OK\r\n\r\n", false),
    ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
    ("a header bomb", "HTTP/1.1 200 OK\r\n" + String(repeating: "A: b\r\n", count: 50_000) + "\r\n", false),
    ("one long field", "HTTP/1.1 200 OK\r\nA: " + String(repeating: "b", count: 1 << 20) + "\r\n\r\n", false),
    ("a bare CR in a field", "HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 0\r\n\r\n", false),
    ("a NUL in a field", "HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n", false),
    ("a field without a name", "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 0\r\n\r\n", false),
    ("a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", false),
    ("white space around a length", "HTTP/1.1 200 OK\r\nContent-Length: \t2 \r\n\r\n{}", true),
    ("a flood of 1xx", String(repeating: "HTTP/1.1 102 P\r\n\r\n", count: 10_000), false),
    ("some 1xx, then a response", "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + good, true),
    (
      "101 and bytes of another protocol", "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\u{1}\u{2}", true
    ),
    ("half of a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc", false),
    ("a chunk of no size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", false),
    ("a chunk of 2^64", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", false),
    ("a chunk of less than zero", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", false),
    ("trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n", true),
    (
      "a bomb of trailers",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + String(repeating: "A: b\r\n", count: 50_000), false
    ),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", false),
    ("a length of 2^64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", false),
    ("a length below zero", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false),
    ("garbage after the response", good + "garbage", true), ("two responses", good + good, true),
    ("a response and the head of another", good + "HTTP/1.1 200 OK\r\nContent-", true),
    ("304 with a body", "HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\nhello", true),
    ("204 with a body", "HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\nhello", true),
    ("until the end", "HTTP/1.1 200 OK\r\n\r\n{}", true), ("nothing", "", false), ("one byte", "H", false),
  ]

  @Test("ends the call as declared, and the next good response is the next call's", arguments: responses.indices)
  func table(_ index: Int) async throws {
    let (name, bytes, isResponse) = Self.responses[index]
    // First the hostile response, and then, on any connection, correct and distinct responses.
    let calls = Atomic<Int>(0)
    try await BytePeer.run({ _, _ in
      let call = calls.add(1, ordering: .relaxed).oldValue
      guard call > 0 else { return (Array(bytes.utf8), true) }
      return (Array("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(call)".utf8), false)
    }) { url in
      let connections = try connections(url)
      defer { connections.close() }
      let first = await send(connections)
      let isAnswered = if case .success = first { true } else { false }
      #expect(isAnswered == isResponse, "\(name): \(first)")
      for call in 1...2 {
        var response = await send(connections)
        // The connection may be closed as the next call goes out on it.
        if case .failure = response, call == 1 { response = await send(connections) }
        #expect((try? response.get().body).map { [[49], [50], [51]].contains($0) } == true, "\(name): \(response)")
      }
    }
  }

  @Test("white space around a field's value is not part of it")
  func whiteSpace() async throws {
    let bytes =
      "HTTP/1.1 503 X\r\nDate: \tSun, 06 Nov 1994 08:49:37 GMT \t\r\nRetry-After: \tSun, 06 Nov 1994 08:50:37 GMT\t\r\n"
      + "Content-Length: \t2 \r\nConnection: \tclose\t\r\n\r\n{}"
    try await BytePeer.run({ _, _ in (Array(bytes.utf8), false) }) { url in
      let connections = try connections(url)
      defer { connections.close() }
      let response = try await send(connections).get()
      #expect(response.status == 503 && response.body == Array("{}".utf8) && response.retryAfter == .seconds(60))
    }
  }

  @Test("stray bytes on a kept-alive connection close it, and are not the next call's response")
  func unasked() async throws {
    // The first response brings the beginning of a second one, which the next bytes would complete.
    for extra in [
      "HTTP/1.1 299 X\r\nContent-Length: 1\r\n\r\n!", "x", "HTTP/1.1 100 C\r\n\r\n",
      // Ends as the response before does.
      "HTTP/1.1 299 X\r\nA: {}",
    ] {
      try await BytePeer.run({ connection, request in
        (Array(((connection, request) == (0, 0) ? Self.good + extra : Self.good).utf8), false)
      }) { url in
        let connections = try connections(url)
        defer { connections.close() }
        for _ in 0..<3 {
          if case .success(let response) = await send(connections) { #expect(response.status == 200, "\(extra)") }
        }
      }
    }
  }
}
