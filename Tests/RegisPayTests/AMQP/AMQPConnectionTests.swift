import Foundation
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

/// A peer on a real socket: sends given bytes to each connection.
private final class Peer: Sendable {
  private let listener: any Channel
  let port: Int

  private final class Sender: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    let bytes: [UInt8]
    let ends: Bool
    init(_ bytes: [UInt8], ends: Bool) { (self.bytes, self.ends) = (bytes, ends) }

    func channelActive(context: ChannelHandlerContext) {
      context.writeAndFlush(NIOAny(ByteBuffer(bytes: bytes)), promise: nil)
      if ends { context.close(promise: nil) }
    }
  }

  /// - Parameter ends: closes the connection behind the bytes.
  init(_ bytes: [UInt8], ends: Bool = false) async throws {
    listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(Sender(bytes, ends: ends))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    port = listener.localAddress?.port ?? 0
  }

  func close() async throws { try await listener.close() }
}

@Suite("An AMQP connection")
struct AMQPConnectionTests {
  private typealias Bytes = AMQPBytes

  /// Runs on a thread of its own, as the connection's users do.
  private func onThread<Value: Sendable>(_ work: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { done in Thread.detachNewThread { done.resume(returning: work()) } }
  }

  private static func target(_ port: Int, host: String = "127.0.0.1", limit: Duration = .seconds(20))
    -> AMQPTransport.Target
  { AMQPTransport.Target(host: host, port: port, tls: nil, lookUps: LookUpShare(), timeLimit: limit) }

  /// Logs in and uses the connection.
  ///
  /// - Returns: nil if it does not fail.
  private func failure(
    _ target: AMQPTransport.Target, _ wakeup: WakeUp = WakeUp(),
    _ use: @escaping @Sendable (AMQPConnection, WakeUp) throws(AMQPFailure) -> Void = { _, _ in }
  ) async -> AMQPFailure? {
    await onThread {
      do throws(AMQPFailure) {
        let connection = try AMQPConnection.open(target, AMQPSession.login, wakeup)
        try use(connection, wakeup)
        connection.close()
        return nil
      } catch {
        return error
      }
    }
  }

  /// The next thing that says something.
  private static func arrival(_ connection: AMQPConnection, _ wakeup: WakeUp) throws(AMQPFailure) -> AMQPSession.Event {
    while true {
      while let event = try connection.next() { if event != .part { return event } }
      wakeup.wait(until: .now + .seconds(20))
    }
  }

  @Test("takes what arrives, also what comes before the answer to a request, and ends with its broker's reason")
  func serves() async throws {
    let peer = try await Peer(
      Bytes.login + Bytes.method(0, 10, 60, Bytes.short("low")) + Bytes.channelOpenOK(2) + Bytes.method(0, 10, 61)
        + Bytes.close(0, 320, "stopped"))
    let failure = await failure(Self.target(peer.port)) { connection, wakeup throws(AMQPFailure) in
      let answer = try connection.request("it") { $0.openChannel(2) }
      #expect(answer == .given(.plain(AMQPMethodID.channelOpenOK)))
      #expect(try Self.arrival(connection, wakeup) == .blocked(reason: "low"))
      #expect(try Self.arrival(connection, wakeup) == .unblocked)
      _ = try Self.arrival(connection, wakeup)
    }
    #expect(failure == AMQPFailure(code: 320, reason: "stopped"))
    try await peer.close()
  }

  @Test("says that nothing listens, that a name is none, and that a broker has hung up, also within a frame")
  func reasons() async throws {
    let peer = try await Peer([], ends: true)
    // A close may reach the client as a reset, because the peer has not read what the client said.
    let end = await failure(Self.target(peer.port))?.reason ?? ""
    #expect(end == "it has closed the connection" || end.hasPrefix("the connection broke ("))
    try await peer.close()
    #expect(await failure(Self.target(peer.port))?.reason == "nothing listens there (Connection refused)")
    #expect(
      await failure(Self.target(1, host: "no-such-host.invalid"))?.reason.contains("the name can't be resolved") == true
    )
    let half = try await Peer(Array(Bytes.login.dropLast(5)), ends: true)
    // The reason may also be the reset that follows what the peer has not read.
    #expect(await failure(Self.target(half.port)) != nil)
    try await half.close()
  }

  @Test("a broker that says nothing, or other things without end, holds a thread for the limit alone")
  func limits() async throws {
    let silent = try await Peer([])
    let began = ContinuousClock.now
    #expect(
      await failure(Self.target(silent.port, limit: .milliseconds(300)))?.reason
        == "no response to the log-in within 0.3 seconds")
    #expect(began.duration(to: .now) < .seconds(10))
    try await silent.close()
    let blocks = Array(repeating: Bytes.method(0, 10, 60, Bytes.short("low")), count: 10_000).flatMap { $0 }
    let flood = try await Peer(Bytes.login + blocks)
    let reason = await failure(Self.target(flood.port)) { connection, _ throws(AMQPFailure) in
      _ = try connection.request("it") { $0.openChannel(2) }
    }
    #expect(reason?.reason == "it sends other things without end in place of a response")
    try await flood.close()
  }

  @Test("a cut ends the wait at once")
  func cut() async throws {
    let silent = try await Peer([])
    let wakeup = WakeUp()
    let began = ContinuousClock.now
    async let end = failure(Self.target(silent.port, limit: .seconds(60)), wakeup)
    try await Task.sleep(for: .milliseconds(100))
    wakeup.cut()
    #expect(await end != nil)
    #expect(began.duration(to: .now) < .seconds(30))
    try await silent.close()
  }

  @Test("what nobody takes is not read on, and all of it comes once somebody does")
  func untaken() async throws {
    let count = 8 << 20
    let peer = try await Peer(Array(repeating: 1, count: count))
    let port = peer.port
    let taken = await onThread { () -> (first: Int, all: Int) in
      let wakeup = WakeUp()
      // A peer that can't be connected to fails the test by its counts.
      guard let transport = try? AMQPTransport.connect(Self.target(port), wakeup) else { return (0, 0) }
      let end = ContinuousClock.now + .seconds(30)
      while !transport.inbox.isPaused, ContinuousClock.now < end { Thread.sleep(forTimeInterval: 0.01) }
      // Time for more to come, if it were read.
      Thread.sleep(forTimeInterval: 0.2)
      let first = transport.take()?.readableBytes ?? 0
      var all = first
      while all < count, ContinuousClock.now < end {
        all += transport.take()?.readableBytes ?? 0
        wakeup.wait(until: .now + .milliseconds(100))
      }
      transport.close()
      return (first, all)
    }
    #expect(taken.first >= AMQPInbox.arrivedLimit && taken.first <= 3 * AMQPInbox.arrivedLimit)
    #expect(taken.all == count)
    try await peer.close()
  }

  @Test("a peer that reads nothing stops what is published, and memory stays")
  func unread() async throws {
    let peer = try await Peer(Bytes.login)
    let failure = await failure(Self.target(peer.port)) { connection, _ throws(AMQPFailure) in
      let message = AMQPMessage(
        exchange: "e", contentType: "c", id: "i", correlationID: "p", body: [UInt8](repeating: 1, count: 60_000))
      var count = 0
      while connection.isWritable, count < 20 {
        _ = try connection.publish(message)
        count += 1
      }
      #expect(count == 5, "\(AMQPInbox.unsentLimit) bytes are the limit")
    }
    #expect(failure == nil)
    try await peer.close()
  }
}
