import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import Synchronization

/// The bytes of a connection to a broker, on an event loop; a thread that is not one uses it.
struct AMQPTransport: Sendable {
  struct Target: Sendable {
    var host: String
    var port: Int
    /// Nil without TLS.
    var tls: NIOSSLContext?
    var lookUps: LookUpShare
    /// To find the host, to connect, and for the handshake of TLS.
    var timeLimit: Duration
  }

  private let channel: any Channel
  let inbox: AMQPInbox

  init(_ channel: any Channel, _ inbox: AMQPInbox) { (self.channel, self.inbox) = (channel, inbox) }

  // MARK: - Connecting

  /// Blocks at most for the target's limit, or until the wait is cut.
  static func connect(_ target: Target, _ wakeup: WakeUp) throws(AMQPFailure) -> AMQPTransport {
    let end = ContinuousClock.now + target.timeLimit
    let addresses = try addresses(target, wakeup, end)
    var failure = AMQPFailure(reason: "the name has no address")
    for (index, address) in addresses.enumerated() {
      // Leaves time for the other addresses.
      let share = ContinuousClock.now.duration(to: end) / (addresses.count - index)
      guard share > .zero, !wakeup.isCut else { break }
      do throws(AMQPFailure) {
        return try connect(target, address, wakeup, share)
      } catch {
        failure = error
      }
    }
    throw failure
  }

  private static func addresses(
    _ target: Target, _ wakeup: WakeUp, _ end: ContinuousClock.Instant
  ) throws(AMQPFailure) -> [IPAddress] {
    if let address = IPAddress(literal: target.host) { return [address] }
    let found = Slot<Result<[IPAddress], HostResolver.Failure>>(wakeup)
    let task = Task {
      do throws(HostResolver.Failure) {
        found.set(.success(try await HostResolver.system.addresses(target.host, target.lookUps)))
      } catch {
        found.set(.failure(error))
      }
    }
    defer { task.cancel() }
    switch found.wait(until: end) {
    case .success(let addresses): return addresses
    case .failure(.unresolved(let reason)), .failure(.noRoom(let reason)): throw AMQPFailure(reason: reason)
    case nil: throw AMQPFailure(reason: "the name's servers don't respond within \(target.timeLimit)")
    }
  }

  private static func connect(
    _ target: Target, _ address: IPAddress, _ wakeup: WakeUp, _ limit: Duration
  ) throws(AMQPFailure) -> AMQPTransport {
    let inbox = AMQPInbox(wakeup)
    let made = Slot<Result<any Channel, AMQPFailure>>(wakeup)
    let future: EventLoopFuture<any Channel>
    do {
      future = connect(target, try SocketAddress(ipAddress: address.description, port: target.port), inbox, limit)
    } catch {
      throw AMQPFailure(reason: "\(address) can't be connected to")
    }
    future.whenComplete { result in made.set(result.mapError { AMQPFailure(reason: reason($0, host: target.host)) }) }
    switch made.wait(until: .now + limit + .milliseconds(250)) {
    case .success(let channel): return AMQPTransport(channel, inbox)
    case .failure(let failure): throw failure
    case nil:
      future.whenSuccess { $0.close(promise: nil) }
      throw AMQPFailure(reason: "no connection within \(limit.inTenths)")
    }
  }

  private static func connect(
    _ target: Target, _ address: SocketAddress, _ inbox: AMQPInbox, _ limit: Duration
  ) -> EventLoopFuture<any Channel> {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    // With TLS there are two waits.
    let timeLimit = TimeAmount(target.tls == nil ? limit : limit / 2)
    let isAddress = IPAddress(literal: target.host) != nil
    return loop.flatSubmit {
      let handshake = NIOLoopBound(
        target.tls.map { _ in Handshake(host: target.host, isAddress: isAddress) }, eventLoop: loop)
      return ClientBootstrap(group: loop)
        .connectTimeout(timeLimit)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forMessages)
            let pipeline = channel.pipeline.syncOperations
            if let tls = target.tls, let handshake = handshake.value {
              let name = isAddress ? nil : target.host
              try pipeline.addHandler(NIOSSLClientHandler(context: tls, serverHostname: name))
              try pipeline.addHandler(handshake)
            }
            try pipeline.addHandler(AMQPHandler(inbox, host: target.host))
          }
        }
        .connect(to: address)
        .flatMap { channel in
          guard let handshake = handshake.value else { return channel.eventLoop.makeSucceededFuture(channel) }
          let done = handshake.done(on: channel, within: timeLimit)
          done.whenFailure { _ in channel.close(promise: nil) }
          return done.map { channel }
        }
    }
  }

  /// What is wrong, for a person, in the system's words where it has some.
  static func reason(_ error: any Error, host: String) -> String {
    switch error {
    case let error as AMQPFailure: error.reason
    case let error as Handshake.Failure: error.description
    case let error as IOError where error.errnoCode == ECONNREFUSED: "nothing listens there (\(text(of: error)))"
    case let error as IOError where error.errnoCode == ECONNRESET || error.errnoCode == EPIPE:
      "the connection broke (\(text(of: error)))"
    case let error as IOError: "it can't be reached (\(text(of: error)))"
    case ChannelError.connectTimeout(let limit): "it can't be reached: no connection within \(Duration(limit).inTenths)"
    default: TLSFailure.reason(error, host: host) ?? "\(error)"
    }
  }

  private static func text(of error: IOError) -> String { String(cString: strerror(error.errnoCode)) }

  // MARK: - A connection

  /// All that has arrived; nil for nothing.
  func take() -> ByteBuffer? {
    let (bytes, resumes) = inbox.take()
    // Fails only when the connection has ended.
    if resumes { _ = channel.setOption(.autoRead, value: true) }
    return bytes
  }

  /// Sends these bytes, in one go if the socket takes them.
  func send(_ bytes: ByteBuffer) {
    let count = bytes.readableBytes
    inbox.willSend(count)
    channel.writeAndFlush(bytes).whenComplete { [inbox] _ in inbox.sent(count) }
  }

  /// - Parameter interval: 0 for no heartbeats.
  func beginHeartbeats(seconds: UInt16) {
    guard seconds > 0 else { return }
    channel.triggerUserOutboundEvent(AMQPHandler.Heartbeats(interval: .seconds(Int64(seconds))), promise: nil)
  }

  /// What was sent before still goes if the socket takes it.
  func close() { channel.close(promise: nil) }

  /// A value that comes once, for a thread that waits for it.
  private final class Slot<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let wakeup: WakeUp

    init(_ wakeup: WakeUp) { self.wakeup = wakeup }

    func set(_ new: Value) {
      value.withLock { $0 = new }
      wakeup.signal()
    }

    /// - Returns: nil if it has not come in time, or the wait was cut.
    func wait(until end: ContinuousClock.Instant) -> Value? {
      while true {
        if let value = value.withLock({ $0 }) { return value }
        guard !wakeup.isCut, ContinuousClock.now < end else { return nil }
        wakeup.wait(until: end)
      }
    }
  }
}
