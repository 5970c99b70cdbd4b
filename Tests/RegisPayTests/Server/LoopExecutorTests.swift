import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

@Suite struct LoopExecutorTests {
  /// Answers each connection at once.
  private final class Answer: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    func channelActive(context: ChannelHandlerContext) {
      context.writeAndFlush(NIOAny(ByteBuffer(string: "here")), promise: nil)
    }
  }

  private final class Served: Sendable {
    let isTrue = Atomic(false)
  }

  @Test("a loop whose tasks are always ready still serves its connections, and goes on with the tasks")
  func busy() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let loop = group.next()
    let server = try await ServerBootstrap(group: group)
      .childChannelInitializer { $0.pipeline.addHandler(Answer()) }
      .bind(host: "127.0.0.1", port: 0).get()
    let address = try #require(server.localAddress)
    let end = ContinuousClock.now + .seconds(20)
    let served = Served()
    let counts = try await withThrowingTaskGroup(of: Int.self) { tasks in
      for _ in 0..<4 {
        tasks.addTask(executorPreference: LoopExecutor.of(loop)) {
          var count = 0
          while !served.isTrue.load(ordering: .relaxed), ContinuousClock.now < end {
            count += 1
            await Task.yield()
          }
          return count
        }
      }
      let client = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connect(to: address) { channel in
          channel.eventLoop.makeCompletedFuture {
            try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
          }
        }
      try await client.executeThenClose { inbound, _ in
        for try await bytes in inbound {
          #expect(String(buffer: bytes) == "here")
          break
        }
      }
      #expect(ContinuousClock.now < end, "the connection had to wait for the tasks")
      served.isTrue.store(true, ordering: .relaxed)
      return try await tasks.reduce(into: []) { $0.append($1) }
    }
    #expect(counts.count == 4 && counts.allSatisfy { $0 > 0 }, "\(counts)")
    try await server.close()
    try await group.shutdownGracefully()
  }

  @Test("there is one executor for each loop")
  func one() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
    let executors = LoopExecutor.executors(of: group)
    let again = LoopExecutor.executors(of: group)
    #expect(executors.count == 2 && executors[0] !== executors[1])
    for executor in executors {
      #expect(again.contains { $0 === executor } && executor === LoopExecutor.of(executor.loop))
    }
    try await group.shutdownGracefully()
  }
}
