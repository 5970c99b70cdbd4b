import NIOCore
import NIOEmbedded
import Testing

@testable import RegisPay

@Suite("The end of an AMQP connection's pipeline")
struct AMQPHandlerTests {
  private func channel(_ inbox: AMQPInbox, heartbeatSeconds: Int64) throws -> EmbeddedChannel {
    let channel = EmbeddedChannel(handler: AMQPHandler(inbox, host: "h"))
    try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 5672)).wait()
    channel.triggerUserOutboundEvent(AMQPHandler.Heartbeats(interval: .seconds(heartbeatSeconds)), promise: nil)
    return channel
  }

  @Test("sends a heartbeat in each half of the interval in which nothing else was sent")
  func sends() throws {
    let channel = try channel(AMQPInbox(WakeUp()), heartbeatSeconds: 10)
    let heartbeat = ByteBuffer(bytes: [8, 0, 0, 0, 0, 0, 0, 0xCE])
    channel.embeddedEventLoop.advanceTime(by: .seconds(5))
    #expect(try channel.readOutbound(as: ByteBuffer.self) == heartbeat)
    #expect(try channel.readOutbound(as: ByteBuffer.self) == nil)
    try channel.writeOutbound(ByteBuffer(bytes: [1]))
    #expect(try channel.readOutbound(as: ByteBuffer.self) == ByteBuffer(bytes: [1]))
    channel.embeddedEventLoop.advanceTime(by: .seconds(5))
    #expect(try channel.readOutbound(as: ByteBuffer.self) == nil)
    channel.embeddedEventLoop.advanceTime(by: .seconds(5))
    #expect(try channel.readOutbound(as: ByteBuffer.self) == heartbeat)
    _ = try? channel.finish()
  }

  @Test("a broker from which nothing comes for two intervals is gone, and any byte counts")
  func missing() throws {
    let inbox = AMQPInbox(WakeUp())
    let channel = try channel(inbox, heartbeatSeconds: 10)
    channel.embeddedEventLoop.advanceTime(by: .seconds(15))
    try channel.writeInbound(ByteBuffer(bytes: [8]))
    channel.embeddedEventLoop.advanceTime(by: .seconds(19))
    #expect(channel.isActive && inbox.failure == nil)
    channel.embeddedEventLoop.advanceTime(by: .seconds(6))
    #expect(!channel.isActive)
    #expect(inbox.failure?.reason == "it has sent no heartbeat for 20 seconds")
    _ = try? channel.finish()
  }

  @Test("stops reading when much has arrived, which does not count as a broker that is gone")
  func pauses() throws {
    let inbox = AMQPInbox(WakeUp())
    let channel = try channel(inbox, heartbeatSeconds: 10)
    for _ in 0..<3 { try channel.writeInbound(ByteBuffer(repeating: 1, count: 100 << 10)) }
    #expect(inbox.isPaused)
    channel.embeddedEventLoop.advanceTime(by: .seconds(60))
    #expect(channel.isActive)
    let (bytes, resumes) = inbox.take()
    #expect(bytes?.readableBytes == 300 << 10 && resumes && !inbox.isPaused)
    #expect(inbox.take().bytes == nil)
    _ = try? channel.finish()
  }

  @Test("the end of the connection is told after what arrived before it")
  func ends() throws {
    let inbox = AMQPInbox(WakeUp())
    let channel = try channel(inbox, heartbeatSeconds: 10)
    try channel.writeInbound(ByteBuffer(bytes: [1, 2]))
    _ = try channel.finish()
    #expect(inbox.failure?.reason == "it has closed the connection")
    #expect(inbox.take().bytes == ByteBuffer(bytes: [1, 2]))
  }

  @Test("tells when it takes more, once what waits to be sent is below its limit again")
  func unsent() {
    let inbox = AMQPInbox(WakeUp())
    inbox.willSend(AMQPInbox.unsentLimit)
    #expect(inbox.unsentBytes == AMQPInbox.unsentLimit)
    let began = ContinuousClock.now
    inbox.sent(1)
    inbox.wakeup.wait(until: .now + .seconds(20))
    #expect(began.duration(to: .now) < .seconds(10))
  }
}
