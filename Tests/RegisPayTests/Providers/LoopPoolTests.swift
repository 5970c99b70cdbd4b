import NIOCore
import NIOEmbedded
import NIOHTTP1
import Synchronization
import Testing

@testable import RegisPay

@Suite("The connections of one loop")
struct LoopPoolTests {
  @Test("a connection that comes too late for its call is closed when it has been idle for long enough")
  func late() throws {
    let loop = EmbeddedEventLoop()
    let promise = loop.makePromise(of: (any Channel).self)
    let settings = LoopPool.Settings(
      timeLimit: .milliseconds(400), idleTimeLimit: .milliseconds(900), connectionLimit: 1, budget: nil
    ) { _ in promise.futureResult }
    let pool = LoopPool(loop, settings)
    let failures = Mutex(0)
    let head = HTTPRequestHead(version: .http1_1, method: .POST, uri: "/")
    pool.begin(ClientCall(head: head, body: ByteBuffer()), CallTicket()) { result in
      if case .failure = result { failures.withLock { $0 += 1 } }
    }
    loop.advanceTime(by: .milliseconds(700))
    #expect(failures.withLock { $0 } == 1)
    let channel = EmbeddedChannel(loop: loop)
    let reader = ResponseReader(.init(bodyBytes: 100, headBytes: 400, headFields: 10, interimResponses: 3))
    try reader.addHandlers(to: channel.pipeline.syncOperations, validatesHeads: false)
    try channel.connect(to: try SocketAddress(unixDomainSocketPath: "/peer")).wait()
    promise.succeed(channel)
    loop.advanceTime(by: .milliseconds(500))
    #expect(channel.isActive, "in time for the next call")
    loop.advanceTime(by: .milliseconds(500))
    #expect(!channel.isActive)
  }
}
