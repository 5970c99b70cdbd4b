import Foundation
import Synchronization
import Testing

@testable import LogStore

/// Consumers that continue where they stopped.
@Suite struct SubscriptionTests {
  let directory = TemporaryDirectory()

  func open() throws(LogStoreError) -> LogStore { try LogStore.open(directory.path, options: smallSegments()) }

  /// A store with events whose payloads are their offsets.
  func store(events count: Int) async throws -> LogStore {
    let store = try open()
    try await add(count, to: store)
    return store
  }

  func add(_ count: Int, to store: LogStore) async throws {
    let start = Int(store.reader.endOffset)
    try await store.append(Append((start..<start + count).map { event("s\($0)", "\($0)") }))
  }

  /// Never commits before the end.
  static let seldom = Subscription.Options(commitInterval: .seconds(86_400))
  static let often = Subscription.Options(commitInterval: .milliseconds(5))

  /// Waits until a condition holds that another task brings about.
  func wait(_ what: Comment, until condition: () throws -> Bool) async throws {
    // Other tests keep the threads of all tasks busy.
    let deadline = ContinuousClock.now + .seconds(300)
    while try !condition() {
      try #require(ContinuousClock.now < deadline, what)
      try await Task.sleep(for: .milliseconds(1))
    }
  }

  /// Takes some events and finishes them.
  @discardableResult
  func take(_ count: Int, _ subscription: Subscription) async throws -> [UInt64] {
    var offsets: [UInt64] = []
    for try await event in subscription {
      offsets.append(event.offset)
      subscription.finish(event)
      if offsets.count == count { break }
    }
    return offsets
  }

  // MARK: - The checkpoint

  @Test("it begins at the first event, and after a restart at the checkpoint: what was not finished is given again")
  func restart() async throws {
    let store = try await store(events: 10)
    let subscription = try store.subscription("c", options: Self.seldom)
    #expect(try await take(4, subscription) == [0, 1, 2, 3])
    var unfinished: Event?
    for try await event in subscription {
      if unfinished == nil {
        unfinished = event
        continue
      }
      subscription.finish(event)
      if event.offset == 7 { break }
    }
    #expect(unfinished?.offset == 4)
    #expect(subscription.nextCheckpoint == 4)
    #expect(try store.reader.cursor("c") == nil, "nothing is committed before the interval is over")
    try await subscription.commit()
    #expect(try store.reader.cursor("c") == 4 && subscription.checkpoint == 4)
    try await store.close()
    let again = try open()
    #expect(try await take(6, try again.subscription("c")) == [4, 5, 6, 7, 8, 9])
    try await again.close()
  }

  @Test("the checkpoint is committed while the loop waits, also what another task has finished")
  func committedWhileWaiting() async throws {
    let store = try await store(events: 5)
    let subscription = try store.subscription("c", options: Self.often)
    let (given, give) = AsyncStream<Event>.makeStream()
    let loop = Task { for try await event in subscription { give.yield(event) } }
    var events: [Event] = []
    for await event in given {
      events.append(event)
      if events.count == 5 { break }
    }
    for event in events.dropLast().reversed() { subscription.finish(event) }
    try await wait("the cursor is at the unfinished event") { try store.reader.cursor("c") == 4 }
    subscription.finish(events[4])
    try await wait("the cursor is at the end") { try store.reader.cursor("c") == 5 }
    // Waiting for the next commit, it still sees a new event.
    try await add(1, to: store)
    for await event in given {
      #expect(event.offset == 5)
      break
    }
    loop.cancel()
    try await loop.value
    #expect(try store.reader.cursor("c") == 5)
    try await store.close()
  }

  @Test("a new event is given at once, though the next commit is a day away")
  func promptEvents() async throws {
    let store = try await store(events: 1)
    let subscription = try store.subscription("c", options: Self.seldom)
    let seen = Mutex<[UInt64]>([])
    let loop = Task {
      for try await event in subscription {
        subscription.finish(event)
        seen.withLock { $0.append(event.offset) }
      }
    }
    for count in 1...3 {
      try await wait("the event is given") { seen.withLock { $0.count } == count }
      try await add(1, to: store)
    }
    #expect(try store.reader.cursor("c") == nil)
    loop.cancel()
    try await loop.value
    #expect(try store.reader.cursor("c") == subscription.nextCheckpoint)
    try await store.close()
  }

  @Test("a busy loop commits once in an interval, and not for each event")
  func commitInterval() async throws {
    let store = try await store(events: 1_000)
    let subscription = try store.subscription("c", options: Self.seldom)
    let syncs = store.syncCount
    try await take(1_000, subscription)
    #expect(store.syncCount == syncs)
    let other = try store.subscription("other", options: .init(commitInterval: .zero))
    try await take(10, other)
    #expect(try store.reader.cursor("other") == 9, "the last one is finished after the last commit")
    #expect(store.syncCount == syncs + 9)
    try await store.close()
  }

  @Test("after a commit, the next one waits for the interval again")
  func nextCommit() async throws {
    let store = try await store(events: 5_000)
    let interval = Duration.milliseconds(100)
    let start = ContinuousClock.now
    let subscription = try store.subscription("c", options: .init(commitInterval: interval))
    let syncs = store.syncCount
    while store.syncCount == syncs, subscription.readOffset < 4_000 {
      try await take(1, subscription)
      if store.syncCount == syncs { try await Task.sleep(for: .milliseconds(1)) }
    }
    try await take(500, subscription)
    let limit = 1 + (ContinuousClock.now - start) / interval
    #expect(store.syncCount > syncs && Double(store.syncCount - syncs) <= limit)
    try await store.close()
  }

  @Test("a checkpoint that was overtaken by a later one does not refuse its effect, and does not move the cursor back")
  func overtaken() async throws {
    let store = try await store(events: 2)
    let subscription = try store.subscription("c", options: Self.seldom)
    var iterator = subscription.makeAsyncIterator()
    let first = try #require(try await iterator.next())
    let second = try #require(try await iterator.next())
    let early = subscription.commit(finishing: second)
    #expect(early.checkpoint == 0)
    for event in [first, second] { subscription.finish(event) }
    try await subscription.commit()
    try await store.append(Append(event("effect"), cursors: [early]))
    #expect(try store.reader.cursor("c") == 2 && store.reader.endOffset == 3)
    try await store.close()
  }

  @Test("an effect appended with its checkpoint is there once, though nothing else was committed")
  func exactlyOnce() async throws {
    var store = try await store(events: 20)
    for round in 1...2 {
      let subscription = try store.subscription("billing", options: Self.seldom)
      var count = 0
      for try await order in subscription {
        if order.type == "Happened" {
          // Every third order has no bill.
          if order.offset % 3 != 0 {
            let bill = event("bill", "\(order.offset)", type: "Billed")
            try await store.append(Append(bill, cursors: [subscription.commit(finishing: order)]))
          }
          count += 1
        }
        subscription.finish(order)
        // The last order of the first round has no bill, so it is given again.
        if count == (round == 1 ? 13 : 8) { break }
      }
      // As a crash: nothing is committed at the end.
      try await store.close()
      store = try open()
    }
    // What is committed with a bill is not committed again.
    let third = try store.subscription("billing", options: Self.seldom)
    var iterator = third.makeAsyncIterator()
    let other = try #require(try await iterator.next())
    try await store.append(Append(event("other"), cursors: [third.commit(finishing: other)]))
    third.finish(other)
    let syncs = store.syncCount
    try await third.commit()
    #expect(store.syncCount == syncs && third.checkpoint == other.offset + 1)
    let bills = try store.reader.stream("bill").map { String(decoding: $0.payload, as: UTF8.self) }
    #expect(bills == (0..<20).filter { $0 % 3 != 0 }.map(String.init))
    try await store.close()
  }

  @Test("a consumer that keeps its checkpoint itself reads beside the writer, in portions, and begins where it says")
  func ownCheckpoint() async throws {
    let store = try await store(events: 10)
    let reader = try LogReader.open(directory.path)
    let subscription = Subscription(reader, from: 3)
    var count = 0
    let portion = try subscription.read { event -> Subscription.Choice<String> in
      guard count < 3 else { return .stop }
      guard event.offset % 2 == 0 else { return .skip }
      count += 1
      return .take(String(decoding: event.copy().payload, as: UTF8.self))
    }
    #expect(portion.items.map(\.item) == ["4", "6", "8"] && portion.items.map(\.offset) == [4, 6, 8])
    #expect(portion.offsets == 3..<9 && portion.passed.isEmpty)
    #expect(subscription.readOffset == 9 && subscription.nextCheckpoint == 4 && subscription.unfinishedCount == 3)
    for offset in [UInt64(8), 4, 6] { subscription.finish(offset) }
    #expect(subscription.nextCheckpoint == 9 && subscription.checkpoint == 3)
    subscription.noteCommitted(9)
    #expect(subscription.checkpoint == 9)
    try await subscription.commit()
    #expect(try store.reader.cursors().isEmpty)
    #expect(try subscription.read { _ in Subscription.Choice<Int>.skip }.offsets == 9..<10)
    #expect(try subscription.read { _ in Subscription.Choice<Int>.skip }.offsets == 10..<10)
    try await add(1, to: store)
    #expect(try await subscription.waitForMore())
    reader.close()
    try await store.close()
  }

  @Test("moved back, it gives events again, but none that is still in flight")
  func rewind() async throws {
    let store = try await store(events: 100)
    let subscription = try store.subscription("c", options: Self.seldom)
    var iterator = subscription.makeAsyncIterator()
    let first = try #require(try await iterator.next())
    let second = try #require(try await iterator.next())
    subscription.finish(second)
    subscription.rewind(to: 0)
    #expect(subscription.readOffset == 0 && subscription.unfinishedCount == 1)
    #expect(try await take(99, subscription) == Array(1..<100))
    #expect(subscription.nextCheckpoint == 0)
    subscription.finish(first)
    #expect(subscription.nextCheckpoint == 100)
    // An offset that it has not reached yet skips nothing.
    subscription.rewind(to: 50)
    _ = try await iterator.next()
    subscription.rewind(to: 80)
    #expect(try await iterator.next()?.offset == 51)
    try await store.close()
  }

  @Test("a name that no cursor can have is refused at once")
  func names() async throws {
    let store = try open()
    for name in ["", String(repeating: "n", count: 256)] {
      #expect(throws: LogStoreError.self) { try store.subscription(name) }
    }
    _ = try store.subscription(String(repeating: "n", count: 255))
    try await store.close()
  }

  @Test("at the limit of unfinished events the loop says so, and goes on when one is finished")
  func limit() async throws {
    let store = try await store(events: 5)
    let subscription = try store.subscription("c", options: .init(unfinishedLimit: 2))
    var iterator = subscription.makeAsyncIterator()
    let first = try #require(try await iterator.next())
    #expect(try await iterator.next()?.offset == 1)
    await expectThrows({
      $0 == .limitExceeded(what: "unfinished events of a subscription", actual: 2, limit: 2)
    }) { () async throws(LogStoreError) in try await iterator.next() }
    subscription.finish(first)
    #expect(try await iterator.next()?.offset == 2)
    try await store.close()
  }

  // MARK: - How it ends

  @Test("it ends at the next event, without an error, and a cancelled one commits", arguments: [true, false])
  func ends(isCancelled: Bool) async throws {
    let store = try await store(events: 50)
    let subscription = try store.subscription("c", options: Self.seldom)
    let loop = Task {
      var count = 0
      for try await event in subscription {
        count += 1
        subscription.finish(event)
        guard event.offset == 10 else { continue }
        if isCancelled { withUnsafeCurrentTask { $0?.cancel() } } else { try await store.close() }
      }
      return count
    }
    #expect(try await loop.value == 11)
    if isCancelled {
      #expect(try store.reader.cursor("c") == 11)
      try await store.close()
    }
  }

  @Test("waiting for events it ends as well", arguments: [true, false])
  func endsWaiting(isCancelled: Bool) async throws {
    let store = try await store(events: 3)
    let subscription = try store.subscription("c", options: Self.seldom)
    let count = Mutex(0)
    let loop = Task {
      try await subscription.run { _ in count.withLock { $0 += 1 } }
      #expect(try await subscription.waitForMore() == false)
    }
    try await wait("all are handled") { count.withLock { $0 } == 3 && subscription.nextCheckpoint == 3 }
    if isCancelled { loop.cancel() } else { try await store.close() }
    try await loop.value
    if isCancelled {
      #expect(try store.reader.cursor("c") == 3)
      try await store.close()
    }
  }

  // MARK: - Several events at a time

  @Test("as many events are handled at a time as it is told to, and each of them once", arguments: [1, 4])
  func concurrency(_ limit: Int) async throws {
    let store = try await store(events: 16)
    let subscription = try store.subscription("c", options: Self.seldom)
    let state = Mutex((running: 0, most: 0, begun: [UInt64]()))
    let (full, isFull) = AsyncStream<Void>.makeStream()
    let loop = Task {
      try await subscription.run(concurrency: limit) { event in
        let isFirst = state.withLock { state in
          state.running += 1
          state.most = max(state.most, state.running)
          state.begun.append(event.offset)
          if state.running == limit { isFull.finish() }
          return state.begun.count <= limit
        }
        // The first ones wait until as many are handled at a time as may be.
        if isFirst { for await _ in full {} } else { await Task.yield() }
        state.withLock { $0.running -= 1 }
      }
    }
    try await wait("all are handled") { subscription.nextCheckpoint == 16 }
    loop.cancel()
    try await loop.value
    #expect(try store.reader.cursor("c") == 16)
    #expect(state.withLock { $0.most } == limit)
    let begun = state.withLock { $0.begun }
    #expect(begun.sorted() == Array(0..<16))
    if limit == 1 { #expect(begun == Array(0..<16)) }
    try await store.close()
  }

  struct Refused: Error {}

  @Test("the first error ends it, the checkpoint stays before the event, and the next call gives that event again")
  func handlerFails() async throws {
    let store = try await store(events: 10)
    let subscription = try store.subscription("c", options: Self.seldom)
    let (started, start) = AsyncStream<Void>.makeStream()
    let ended = Mutex(false)
    await #expect(throws: Refused.self) {
      try await subscription.run(concurrency: 2) { event in
        if event.offset == 5 {
          // Handled at the same time as the one that fails; it is cancelled, and waited for.
          start.finish()
          try? await Task.sleep(for: .seconds(3_600))
          ended.withLock { $0 = true }
        } else if event.offset == 6 {
          for await _ in started {}
          throw Refused()
        }
      }
    }
    #expect(ended.withLock { $0 })
    let checkpoint = try #require(try store.reader.cursor("c"))
    // The event that was cancelled was handled to its end, in its own way.
    #expect(checkpoint == 6)
    let seen = Mutex<[UInt64]>([])
    let again = Task { try await subscription.run { event in seen.withLock { $0.append(event.offset) } } }
    try await wait("all are handled") { subscription.nextCheckpoint == 10 }
    again.cancel()
    try await again.value
    #expect(seen.withLock { $0 } == [6, 7, 8, 9])
    try await store.close()
  }

  @Test("a handler that throws because its task was cancelled is no failure, and its event is given again")
  func handlerCancelled() async throws {
    let store = try await store(events: 3)
    let subscription = try store.subscription("c", options: Self.seldom)
    let (started, start) = AsyncStream<Void>.makeStream()
    let loop = Task {
      try await subscription.run { event in
        guard event.offset == 1 else { return }
        start.finish()
        try await Task.sleep(for: .seconds(3_600))
      }
    }
    for await _ in started {}
    loop.cancel()
    try await loop.value
    #expect(try store.reader.cursor("c") == 1)
    #expect(try await take(2, subscription) == [1, 2])
    try await store.close()
  }

  @Test("two loops over one subscription share its events")
  func shared() async throws {
    let store = try await store(events: 2_000)
    let subscription = try store.subscription("c", options: Self.seldom)
    let loops = (0..<2).map { _ in
      Task {
        var offsets: [UInt64] = []
        for try await event in subscription {
          offsets.append(event.offset)
          subscription.finish(event)
        }
        return offsets
      }
    }
    try await wait("all are finished") { subscription.nextCheckpoint == 2_000 }
    for loop in loops { loop.cancel() }
    var offsets: [UInt64] = []
    for loop in loops { offsets += try await loop.value }
    #expect(offsets.sorted() == Array(0..<2_000))
    try await store.close()
  }

  // MARK: - Damage

  /// Events of some size in finished segments; the one at the returned offset is damaged.
  func damagedStore() async throws -> (store: LogStore, damaged: UInt64) {
    let store = try open()
    while directory.names(".log").count < 3 {
      try await store.append(Append(event("s", String(repeating: "x", count: 9_000))))
    }
    try await store.close()
    // In the payload of the third event.
    try edit(directory.file(FileName.segment(0))) { $0[SegmentHeader.byteCount + 23_000] ^= 1 }
    var options = smallSegments()
    options.servesDamaged = true
    return (try LogStore.open(directory.path, options: options), 2)
  }

  @Test("damage is thrown at each try, behind the sound events before it, and nothing is skipped")
  func damageIsThrown() async throws {
    let (store, damaged) = try await damagedStore()
    let subscription = try store.subscription("c", options: Self.seldom)
    var iterator = subscription.makeAsyncIterator()
    for offset in 0..<damaged {
      let event = try #require(try await iterator.next())
      #expect(event.offset == offset)
      subscription.finish(event)
    }
    for _ in 0..<2 {
      await expectThrows({ if case .damaged = $0 { true } else { false } }) { () async throws(LogStoreError) in
        try await iterator.next()
      }
    }
    #expect(subscription.readOffset == damaged && subscription.nextCheckpoint == damaged)
    try await store.close()
  }

  @Test("damage that is passed over is recorded before the checkpoint moves past it, again if that fails")
  func damageIsPassedOver() async throws {
    let (store, damaged) = try await damagedStore()
    let calls = Mutex<[Range<UInt64>]>([])
    let options = Subscription.Options(commitInterval: .zero) { range throws(LogStoreError) in
      let count = calls.withLock { calls in
        calls.append(range.offsets)
        return calls.count
      }
      if count == 1 { throw .stopped(cause: "the test") }
    }
    let subscription = try store.subscription("c", options: options)
    var iterator = subscription.makeAsyncIterator()
    var offsets: [UInt64] = []
    var error: LogStoreError?
    while subscription.nextCheckpoint < store.reader.endOffset {
      do throws(LogStoreError) {
        guard let event = try await iterator.next() else { break }
        offsets.append(event.offset)
        subscription.finish(event)
      } catch let found {
        error = found
        #expect(offsets == Array(0..<damaged))
        // Events behind it are read ahead, and finishing those can't move the checkpoint past it.
        #expect(subscription.nextCheckpoint == damaged)
        try await subscription.commit()
        #expect(try store.reader.cursor("c") == damaged)
      }
    }
    #expect(error == .stopped(cause: "the test"))
    #expect(calls.withLock { $0 } == [damaged..<damaged + 1, damaged..<damaged + 1])
    #expect(offsets == (0..<store.reader.endOffset).filter { $0 != damaged })
    try await store.close()
  }

  @Test("damage that has hit no event is passed over without a call")
  func damageWithoutEvents() async throws {
    let store = try open()
    while directory.names(".log").count < 3 {
      try await store.append(Append(event("s", String(repeating: "x", count: 500))))
    }
    try await store.close()
    // In the header of the first frame, whose record is sound.
    try edit(directory.file(FileName.segment(0))) { $0[SegmentHeader.byteCount + 9] ^= 4 }
    var options = smallSegments()
    options.servesDamaged = true
    let again = try LogStore.open(directory.path, options: options)
    let calls = Mutex(0)
    let subscription = try again.subscription(
      "c", options: .init(passOver: { _ throws(LogStoreError) in calls.withLock { $0 += 1 } }))
    let end = again.reader.endOffset
    #expect(try await take(Int(end), subscription) == Array(0..<end))
    #expect(calls.withLock { $0 } == 0)
    #expect(try again.reader.damagedRanges(file: FileName.segment(0)).count == 1)
    try await again.close()
  }

  @Test("a portion ends with what is sound before damage, and what is passed over is unfinished until it is finished")
  func damageInPortions() async throws {
    let (store, damaged) = try await damagedStore()
    let refusing = Subscription(store.reader, from: 0)
    #expect(try refusing.read { _ in Subscription.Choice<Int>.skip }.offsets == 0..<damaged)
    #expect(throws: LogStoreError.self) { try refusing.read { _ in Subscription.Choice<Int>.skip } }
    let passing = Subscription(store.reader, from: 0, options: .init(passOver: { _ in }))
    let portion = try passing.read { _ in Subscription.Choice<Int>.skip }
    let range = try #require(portion.passed.first)
    #expect(portion.offsets == 0..<store.reader.endOffset)
    #expect(portion.passed.count == 1 && range.offsets == damaged..<damaged + 1)
    #expect(passing.nextCheckpoint == damaged && passing.unfinishedCount == 1)
    passing.finish(DamagedRange(offsets: damaged..<damaged, damage: range.damage))
    #expect(passing.nextCheckpoint == damaged, "a range without events finishes none")
    passing.finish(range)
    #expect(passing.nextCheckpoint == store.reader.endOffset)
    passing.rewind(to: 0)
    passing.finish(try passing.read { event in event.offset % 2 == 0 ? .skip : .take(event.offset) })
    #expect(passing.nextCheckpoint == store.reader.endOffset && passing.unfinishedCount == 0)
    try await store.close()
  }
}
