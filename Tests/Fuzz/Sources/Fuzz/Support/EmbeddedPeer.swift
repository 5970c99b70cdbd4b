import NIOCore
import NIOEmbedded

@testable import RegisPayParts

/// The client of a server's connection without a socket, whose loop runs on the fuzzer's only thread.
class EmbeddedPeer {
  /// Its handlers are the server's.
  let channel: EmbeddedChannel
  let table: ConnectionTable
  /// What the server has written.
  var written: [UInt8] = []

  init(
    _ channel: EmbeddedChannel = EmbeddedChannel(),
    _ table: ConnectionTable = ConnectionTable(limit: 4, limitPerAddress: nil)
  ) {
    self.channel = channel
    self.table = table
  }

  func send(_ bytes: ArraySlice<UInt8>) {
    do {
      try channel.writeInbound(ByteBuffer(bytes: bytes))
    } catch {
      // It is answered, or ends a request or the connection.
    }
    settle()
  }

  /// The client will send no more, and still reads.
  func closeInput() {
    guard channel.isActive else { return }
    channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
    settle()
  }

  func wait(_ time: TimeAmount) {
    channel.embeddedEventLoop.advanceTime(by: time)
    settle()
  }

  /// Ends the connection, which leaves nothing behind.
  func end() {
    do {
      _ = try channel.finish(acceptAlreadyClosed: true)
    } catch {
      // As above.
    }
    settle()
    promise(table.count == 0, "a closed connection is not in the table")
    promise(table.unfinishedHeads.byteCount == 0, "a closed connection holds no head")
    promise(table.unfinishedBodies.byteCount == 0, "a closed connection holds no body")
    promise(table.unread.byteCount == 0, "a closed connection holds no response")
  }

  func settle() {
    channel.embeddedEventLoop.run()
    do {
      while let bytes = try channel.readOutbound(as: ByteBuffer.self) { written += bytes.readableBytesView }
    } catch {
      broken("bytes are written: \(error)")
    }
  }
}
