import NIOCore
import NIOHTTP1

/// One connection of a ``LoopPool`` and the call that it carries. Lives on the pool's event loop.
final class PooledConnection: ResponseReaderDelegate {
  private let channel: any Channel
  private let reader: ResponseReader
  private let pool: LoopPool
  private var pending: PendingCall?
  private var callCount = 0
  /// The connection counts among the pool's; false once another has taken its room.
  var hasRoom = true
  /// When the connection became free.
  var idleSince = NIODeadline.uptimeNanoseconds(0)

  init(_ channel: any Channel, _ reader: ResponseReader, pool: LoopPool) {
    self.channel = channel
    self.reader = reader
    self.pool = pool
    reader.delegate = self
  }

  var isUsable: Bool { channel.isActive && reader.isFree }

  func close() { channel.close(promise: nil) }

  func send(_ pending: PendingCall) {
    self.pending = pending
    pending.wasSent = true
    callCount += 1
    reader.expect(sink: pending.call.sink)
    channel.write(HTTPClientRequestPart.head(pending.call.head), promise: nil)
    channel.write(HTTPClientRequestPart.body(.byteBuffer(pending.call.body)), promise: nil)
    channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
  }

  func received(_ head: HTTPResponseHead, _ body: [UInt8]) {
    guard let pending else { return }
    self.pending = nil
    let date = head.headers.values("Date").first.map(String.init)
    let retryAfter = head.headers.values("Retry-After").first.flatMap { RetryAfter.wait(String($0), date: date) }
    let response = ClientResponse(
      status: Int(head.status.code), body: body, retryAfter: retryAfter,
      isToRepeat: pending.hasBeenRepeated)
    pool.received(response, to: pending, on: self, wasReused: callCount > 1)
  }

  func failed(_ reason: String, receivedNothing: Bool) {
    guard let pending else { return }
    self.pending = nil
    pool.broke(pending, reason, on: self, wasReused: callCount > 1, receivedNothing: receivedNothing)
  }

  func becameFree() { pool.release(self) }
  func closed() { pool.closed(self) }
}
