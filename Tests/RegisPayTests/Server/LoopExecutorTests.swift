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

  private final class Count: Sendable {
    let value = Atomic(0)
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
        tasks.addTask(executorPreference: LoopExecutor.of(loop, .work)) {
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

  @Test("however many jobs of the consumers wait, a request's is the next but one, and the other way round")
  func lanes() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let loop = group.next()
    for lane in LoopExecutor.Lane.allCases {
      let other = try #require(LoopExecutor.Lane.allCases.first { $0 != lane })
      let (ran, isDone) = (Count(), Served())
      await withTaskGroup(of: Void.self) { tasks in
        for _ in 0..<1_000 {
          tasks.addTask(executorPreference: LoopExecutor.of(loop, other)) {
            while !isDone.isTrue.load(ordering: .relaxed) {
              ran.value.add(1, ordering: .relaxed)
              await Task.yield()
            }
          }
        }
        tasks.addTask(executorPreference: LoopExecutor.of(loop, lane)) {
          var most = 0
          for _ in 0..<100 {
            let before = ran.value.load(ordering: .relaxed)
            await Task.yield()
            most = max(most, ran.value.load(ordering: .relaxed) - before)
          }
          // A yield may take more than one job.
          #expect(most <= 4, "\(most) of the other lane's jobs ran before the next of \(lane)")
          isDone.isTrue.store(true, ordering: .relaxed)
        }
      }
      #expect(ran.value.load(ordering: .relaxed) >= 99, "\(lane) left the others no turn")
    }
    try await group.shutdownGracefully()
  }

  @Test("there is one executor for each loop and lane")
  func one() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
    for lane in LoopExecutor.Lane.allCases {
      let executors = LoopExecutor.executors(of: group, lane)
      let again = LoopExecutor.executors(of: group, lane)
      #expect(executors.count == 2 && executors[0] !== executors[1])
      for executor in executors {
        #expect(again.contains { $0 === executor } && executor === LoopExecutor.of(executor.loop, lane))
      }
    }
    try await group.shutdownGracefully()
  }
}
