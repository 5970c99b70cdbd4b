import NIOCore
import NIOEmbedded
import NIOHTTP1
import Synchronization

@testable import RegisPayParts

/// A pool of connections whose peer does what the input says: it makes or refuses connections, answers, answers unasked, sends
/// anything, closes, and lets time pass, while calls begin and are cancelled. Every call ends once; no call gets another call's
/// answer, nor one that was sent before it; a call that is said not to have been sent was not; a denial counts only when it came
/// on a new connection; sockets stay within their limits and are all given back.
enum PoolTarget {
  private static let callLimit = 12
  /// Statuses that deny an effect; so does 429.
  private static let denials = [400, 401, 402, 404, 410, 422]
  private static let statuses = [200, 200, 201, 409, 429, 500] + denials

  static func run(_ input: inout InputReader) {
    let flags = input.byte()
    let net = Net(connectionLimit: 1 + Int(flags & 3), socketLimit: flags & 4 == 0 ? nil : 1 + Int(flags >> 4 & 3))
    while !input.isAtEnd {
      step(net, &input)
      net.settle()
    }
    net.end()
  }

  private static func step(_ net: Net, _ input: inout InputReader) {
    let operation = input.byte()
    switch operation % 12 {
    case 0, 1: if net.calls.count < callLimit { net.begin(isRepeatable: operation & 16 == 0) }
    case 2: net.cancel(input.index(below: net.calls.count))
    case 3, 4: net.connect(succeeds: true, isOpen: operation & 64 == 0)
    case 5: net.connect(succeeds: false, isOpen: false)
    case 6, 7:
      let status = statuses[input.index(below: statuses.count)]
      net.answer(
        input.index(below: net.peers.count), status: status, closes: operation & 16 != 0,
        pieceByteCount: operation & 64 == 0 ? .max : 1 + Int(input.byte() % 64))
    case 8: net.answerUnasked(input.index(below: net.peers.count), status: statuses[input.index(below: statuses.count)])
    case 9:
      let index = input.index(below: net.peers.count)
      net.send(input.take(Int(input.byte() % 64)), to: index)
    case 10: net.close(input.index(below: net.peers.count))
    default:
      if operation & 0xf0 == 0xf0 { net.closePool() } else { net.pass(.milliseconds(25 * Int64(operation >> 4))) }
    }
  }

  private final class Call {
    let isRepeatable: Bool
    let ticket = CallTicket()
    let results = Mutex<[Result<ClientResponse, CallFailure>]>([])
    /// How often the peer has seen it, whole or in part.
    var sentCount = 0

    init(isRepeatable: Bool) { self.isRepeatable = isRepeatable }
  }

  /// The other side of one connection.
  private final class Peer {
    let channel: EmbeddedChannel
    /// The calls that came, by number.
    var calls: [Int] = []
    /// The last call was not answered properly yet.
    var isAwaited = false
    /// Bytes came from this side that are no proper answer.
    var isHostile = false

    init(_ channel: EmbeddedChannel) { self.channel = channel }
  }

  // Used on one thread.
  private final class Net: @unchecked Sendable {
    private let loop = EmbeddedEventLoop()
    private let budget: SocketBudget?
    private let connectionLimit: Int
    private var pool: LoopPool?
    private var connecting: [EventLoopPromise<any Channel>] = []
    private(set) var peers: [Peer] = []
    private(set) var calls: [Call] = []

    init(connectionLimit: Int, socketLimit: Int?) {
      self.connectionLimit = connectionLimit
      budget = socketLimit.map { SocketBudget(limit: $0) }
      let settings = LoopPool.Settings(
        timeLimit: .milliseconds(400), idleTimeLimit: .milliseconds(900), connectionLimit: connectionLimit,
        budget: budget
      ) { [unowned self] loop in
        let promise = loop.makePromise(of: (any Channel).self)
        self.connecting.append(promise)
        return promise.futureResult
      }
      pool = LoopPool(loop, settings)
    }

    // MARK: - The caller's side

    func begin(isRepeatable: Bool) {
      let call = Call(isRepeatable: isRepeatable)
      let number = calls.count
      calls.append(call)
      let head = HTTPRequestHead(
        version: .http1_1, method: .POST, uri: "/\(number)", headers: ["Host": "peer", "Content-Length": "2"])
      let sent = ClientCall(head: head, body: ByteBuffer(string: "{}"), isRepeatable: isRepeatable)
      nonisolated(unsafe) let noted = call
      pool?.begin(sent, call.ticket) { result in noted.results.withLock { $0.append(result) } }
    }

    func cancel(_ number: Int) {
      guard number < calls.count else { return }
      pool?.cancel(calls[number].ticket)
    }

    func closePool() { pool?.close() }

    // MARK: - The peer's side

    func connect(succeeds: Bool, isOpen: Bool) {
      guard let promise = connecting.first else { return }
      connecting.removeFirst()
      guard succeeds else { return promise.fail(ChannelError.connectTimeout(.seconds(1))) }
      let channel = EmbeddedChannel(loop: loop)
      do {
        let reader = ResponseReader(.init(bodyBytes: 100, headBytes: 400, headFields: 10, interimResponses: 3))
        try reader.addHandlers(to: channel.pipeline.syncOperations, validatesHeads: false)
        try channel.connect(to: try SocketAddress(unixDomainSocketPath: "/peer")).wait()
      } catch {
        broken("the connection is made: \(error)")
      }
      if !isOpen { channel.close(promise: nil) }
      peers.append(Peer(channel))
      promise.succeed(channel)
    }

    func answer(_ index: Int, status: Int, closes: Bool, pieceByteCount: Int) {
      guard index < peers.count, peers[index].isAwaited, let call = peers[index].calls.last else { return }
      peers[index].isAwaited = false
      let bytes = Self.answer(status: status, "call \(call)", closes ? "Connection: close\r\n" : "")
      var rest = bytes[...]
      while !rest.isEmpty {
        write(Array(rest.prefix(pieceByteCount)), to: index)
        rest = rest.dropFirst(pieceByteCount)
      }
    }

    /// An answer that belongs to no call: before any has come, or after the last was answered.
    func answerUnasked(_ index: Int, status: Int) {
      guard index < peers.count, !peers[index].isAwaited else { return }
      write(Self.answer(status: status, "unasked", ""), to: index)
    }

    func send(_ bytes: [UInt8], to index: Int) {
      guard index < peers.count else { return }
      peers[index].isHostile = true
      write(bytes, to: index)
    }

    func close(_ index: Int) {
      guard index < peers.count else { return }
      peers[index].channel.close(promise: nil)
    }

    func pass(_ time: TimeAmount) { loop.advanceTime(by: time) }

    private static func answer(status: Int, _ body: String, _ fields: String) -> [UInt8] {
      Array("HTTP/1.1 \(status) X\r\nContent-Length: \(body.utf8.count)\r\n\(fields)\r\n\(body)".utf8)
    }

    private func write(_ bytes: [UInt8], to index: Int) {
      do {
        try peers[index].channel.writeInbound(ByteBuffer(bytes: bytes))
      } catch {
        // What goes wrong is the pool's to know.
      }
      settle()
    }

    // MARK: - What is promised

    /// Runs what is due, reads what was sent, and checks what ended.
    func settle() {
      loop.run()
      for peer in peers { read(peer) }
      let openCount = peers.count { $0.channel.isActive }
      promise(openCount + connecting.count <= connectionLimit, "connections within the limit")
      for (number, call) in calls.enumerated() { check(call, number) }
    }

    private func read(_ peer: Peer) {
      var text = ""
      do {
        while let bytes = try peer.channel.readOutbound(as: ByteBuffer.self) { text += String(buffer: bytes) }
      } catch {
        broken("bytes are written: \(error)")
      }
      guard !text.isEmpty else { return }
      let lines = text.split(separator: "\r\n")
      let heads = lines.filter { $0.hasPrefix("POST /") }
      promise(heads.count == 1, "one call at a time: \(text)")
      guard let number = heads[0].dropFirst(6).split(separator: " ").first.flatMap({ Int($0) }) else {
        broken("a call's line: \(heads[0])")
      }
      promise(!peer.isAwaited || peer.isHostile, "a connection carries one call at a time")
      peer.calls.append(number)
      peer.isAwaited = true
      calls[number].sentCount += 1
      promise(calls[number].sentCount <= (calls[number].isRepeatable ? 3 : 1), "a call is not sent again and again")
    }

    private func check(_ call: Call, _ number: Int) {
      let results = call.results.withLock { $0 }
      promise(results.count <= 1, "a call ends once")
      switch results.first {
      case nil: break
      case .failure(.unreachable), .failure(.noSocket): promise(call.sentCount == 0, "it was not sent")
      case .failure(.timeout), .failure(.broken): promise(call.sentCount > 0, "it was sent")
      case .success(let response):
        promise(call.sentCount > 0, "it was sent")
        let carriers = peers.filter { $0.calls.contains(number) }
        // Whatever a hostile peer says to a call is its answer.
        guard !carriers.contains(where: \.isHostile) else { return }
        promise(String(decoding: response.body, as: UTF8.self) == "call \(number)", "the answer is to the call")
        guard call.isRepeatable, !carriers.contains(where: { $0.calls.first == number }) else { return }
        promise(!PoolTarget.denials.contains(response.status), "a denial is confirmed on a new connection")
        promise(response.status != 429 || response.isUnconfirmed, "429 is not")
      }
    }

    /// The peer goes away, and time passes.
    func end() {
      for _ in 0...PoolTarget.callLimit {
        while !connecting.isEmpty { connect(succeeds: false, isOpen: false) }
        for peer in peers { peer.channel.close(promise: nil) }
        settle()
        pass(.milliseconds(500))
        settle()
      }
      promise(connecting.isEmpty && !peers.contains { $0.channel.isActive }, "nothing connects any more")
      for call in calls { promise(call.results.withLock(\.count) == 1, "every call ends") }
      if let budget {
        for _ in 0..<budget.limit { promise(budget.take(), "every socket is given back") }
        promise(!budget.take(), "and none twice")
      }
      pool = nil
      for peer in peers {
        do {
          _ = try peer.channel.finish(acceptAlreadyClosed: true)
        } catch {
          // It was closed with errors of its own.
        }
      }
    }
  }
}
