import Foundation
import Synchronization
import Testing

@testable import RegisPay

/// Name servers that respond when a test lets them.
@Suite("Looking names up")
struct NameLookUpTests {
  /// Blocks each look-up, as the system's resolver does, until ``release()``.
  private final class NameServer: Sendable {
    private let asked = Mutex<[String]>([])
    private let gate = DispatchSemaphore(value: 0)

    var names: [String] { asked.withLock { $0 } }

    func release() { gate.signal() }

    func lookUp(_ host: String) -> (addresses: [IPAddress], failure: String?) {
      asked.withLock { $0.append(host) }
      gate.wait()
      gate.signal()
      return ([IPAddress(literal: "127.0.0.1")].compactMap { $0 }, nil)
    }
  }

  @Test(
    "look-ups leave most descriptors to connections and logs",
    arguments: [(20, 4), (256, 16), (1_024, 64), (1 << 20, 256)])
  func limit(descriptors: Int, lookUps: Int) {
    #expect(NameLookUps.threadLimit(descriptors: descriptors) == lookUps)
  }

  @Test("tasks that need one name share one thread and its result, and a later task asks the servers again")
  func shared() async throws {
    let server = NameServer()
    let lookUps = NameLookUps(threadLimit: 1, lookUp: server.lookUp)
    let expected = try #require(IPAddress(literal: "127.0.0.1"))
    try await withThrowingTaskGroup(of: [IPAddress].self) { group in
      for _ in 0..<100 {
        group.addTask { try await lookUps.addresses(of: "one.test", for: LookUpShare()) }
      }
      try await eventually("all wait") { lookUps.waiterCount == 100 }
      #expect(lookUps.threadCount == 1)
      server.release()
      for try await found in group { #expect(found == [expected]) }
    }
    #expect(server.names == ["one.test"])
    #expect(try await lookUps.addresses(of: "one.test", for: LookUpShare()) == [expected])
    #expect(server.names == ["one.test", "one.test"])
  }

  @Test("an endpoint whose names hang leaves threads to the others, and gets its own back")
  func bounded() async throws {
    let server = NameServer()
    let lookUps = NameLookUps(threadLimit: 3, shareLimit: 2, lookUp: server.lookUp)
    let (greedy, modest) = (LookUpShare(), LookUpShare())
    let hanging = (0..<2).map { index in
      Task { try await lookUps.addresses(of: "hang\(index).test", for: greedy) }
    }
    try await eventually("two names hang") { server.names.count == 2 }
    await #expect(throws: HostResolver.Failure.noRoom(reason: "2 names of this endpoint are being looked up already")) {
      try await lookUps.addresses(of: "hang2.test", for: greedy)
    }
    // Given up, but the threads are still there: only their end makes room.
    for task in hanging { task.cancel() }
    for task in hanging { await #expect(throws: HostResolver.Failure.self) { try await task.value } }
    #expect(lookUps.threadCount == 2)
    await #expect(throws: HostResolver.Failure.self) { try await lookUps.addresses(of: "hang2.test", for: greedy) }
    let good = Task { try await lookUps.addresses(of: "good.test", for: modest) }
    try await eventually("another endpoint's name is looked up") { server.names.contains("good.test") }
    await #expect(throws: HostResolver.Failure.noRoom(reason: "3 names are being looked up already")) {
      try await lookUps.addresses(of: "more.test", for: LookUpShare())
    }
    server.release()
    #expect(try await good.value.count == 1)
    try await eventually("the threads have ended") { lookUps.threadCount == 0 }
    #expect(try await lookUps.addresses(of: "hang2.test", for: greedy).count == 1)
  }

  @Test("a message for which there is no room to look the name up waits, and is not the endpoint's failure")
  func noRoom() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        let hasRoom = Atomic<Bool>(false)
        let refusals = Atomic<Int>(0)
        bench.options.resolver = HostResolver { _, _ throws(HostResolver.Failure) in
          guard hasRoom.load(ordering: .relaxed) else {
            refusals.add(1, ordering: .relaxed)
            throw .noRoom(reason: "none")
          }
          return [IPAddress(literal: "127.0.0.1")].compactMap { $0 }
        }
        try await bench.delivering { [bench] webhooks in
          let url = receiver.url.replacing("127.0.0.1", with: "good.test")
          let worker = try await webhooks.add(url)
          let ids = try await bench.initiate(50)
          for _ in 1...10 {
            let before = refusals.load(ordering: .relaxed)
            if before > 0 { bench.clock.advance(by: .seconds(1)) }
            try await eventually("there is no room, and it rests") {
              let inFlightCount = await worker.inFlightCount
              return inFlightCount == 0 && refusals.load(ordering: .relaxed) > before
            }
            #expect(refusals.load(ordering: .relaxed) - before <= 8, "at most the calls in flight, each second")
            #expect(await worker.status.progress.failuresInRow == 0)
            #expect(await worker.status.waitingCount <= 8)
          }
          hasRoom.store(true, ordering: .relaxed)
          bench.clock.advance(by: .seconds(1))
          try await worker.rests(at: 50)
          try await eventually("nothing waits") { await worker.status.waitingCount == 0 }
          #expect(Set(receiver.ids) == Set(ids) && receiver.ids.count == 50)
          let log = try await webhooks.log(of: worker)
          #expect(log.count == 50 && log.allSatisfy { $0.outcome == .delivered && $0.attempt == 1 })
        }
      }
    }
  }

  @Test("a message for which this process has no socket left waits, and is not the endpoint's failure")
  func noSocket() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        let sockets = SocketBudget(limit: 1)
        #expect(sockets.take())
        bench.options.sockets = sockets
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(5)
          try await eventually("they wait") {
            let (waiting, inFlightCount) = (await worker.status.waitingCount, await worker.inFlightCount)
            return waiting > 0 && inFlightCount == 0
          }
          #expect(await worker.status.progress.failuresInRow == 0)
          #expect(receiver.ids.isEmpty)
          sockets.give()
          try await eventually("all are delivered") {
            bench.clock.advance(by: .seconds(1))
            return Set(receiver.ids) == Set(ids)
          }
          #expect(await worker.status.progress.failuresInRow == 0)
        }
      }
    }
  }
}
