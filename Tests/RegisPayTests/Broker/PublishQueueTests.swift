import LogStore
import Testing

@testable import RegisPay

@Suite("The queue between the log and the broker")
struct PublishQueueTests {
  private let start = ContinuousClock.now
  private let payments = (0..<4).map { _ in PaymentID.random() }
  private static let backoff = Backoff(base: .seconds(10), cap: .seconds(40))

  private func event(_ offset: UInt64, _ payment: Int, _ type: PaymentEvent.TypeName = .initiated) -> IntegrationEvent {
    IntegrationEvent(offset: offset, id: .random(), type: type, payment: payments[payment], microseconds: 0)
  }

  private func queue(_ events: IntegrationEvent...) -> PublishQueue {
    var queue = PublishQueue(backoff: Self.backoff)
    for event in events { queue.add(event) }
    return queue
  }

  /// Sends all that may be sent; returns the offsets.
  private func send(_ queue: inout PublishQueue, from tag: UInt64, at seconds: Int = 0) -> [UInt64] {
    var offsets: [UInt64] = []
    while let event = queue.next(start + .seconds(seconds)) {
      queue.sent(event, tag: tag + UInt64(offsets.count))
      offsets.append(event.offset)
    }
    return offsets
  }

  private func confirm(_ queue: inout PublishQueue, _ tag: UInt64, multiple: Bool = false) -> [UInt64] {
    queue.take(tag, multiple: multiple).map { event in
      _ = queue.confirmed(event)
      return event.offset
    }
  }

  @Test("sends in the log's order, and a payment's next event when the one before is confirmed")
  func order() {
    var queue = queue(event(0, 0), event(1, 0, .created), event(2, 1), event(3, 0, .settled))
    #expect(send(&queue, from: 1) == [0, 2])
    #expect(!queue.hasNext(start))
    #expect(confirm(&queue, 1) == [0])
    #expect(send(&queue, from: 3) == [1])
    #expect(confirm(&queue, 3, multiple: true) == [2, 1])
    #expect(send(&queue, from: 4) == [3])
    #expect(confirm(&queue, 4) == [3] && queue.count == 0 && queue.inFlightCount == 0)
    #expect(confirm(&queue, 4).isEmpty)
  }

  @Test(
    "tells that all events wait for held exchanges, and ends a hold that nothing waits for when a declaration succeeds")
  func allHeld() {
    var queue = queue(event(0, 0), event(1, 0, .created), event(2, 1, .created))
    #expect(!queue.isAllHeld)
    queue.hold(.settled, "no exchange", start)
    #expect(!queue.isAllHeld)
    #expect(send(&queue, from: 1) == [0, 2])
    for event in queue.take(1, multiple: false) { queue.refused(event, "no queue", start) }
    #expect(confirm(&queue, 2) == [2])
    #expect(queue.isAllHeld)
    queue.endIdleHold(.initiated)
    queue.endIdleHold(.settled)
    #expect(Set(queue.holds.keys) == [.initiated])
    // One is tried.
    #expect(send(&queue, from: 3, at: 60) == [0])
    #expect(queue.isAllHeld)
    queue.endIdleHold(.initiated)
    #expect(confirm(&queue, 3) == [0])
    #expect(!queue.isAllHeld)
  }

  @Test("sends what was in flight again after a lost connection, before what follows")
  func disconnected() {
    var queue = queue(event(0, 0), event(1, 1), event(2, 0, .created), event(3, 2))
    #expect(send(&queue, from: 1) == [0, 1, 3])
    #expect(confirm(&queue, 2) == [1])
    queue.add(event(4, 3))
    #expect(queue.disconnected() == 2)
    #expect(send(&queue, from: 1) == [0, 3, 4])
    #expect(confirm(&queue, 3, multiple: true) == [0, 3, 4])
    #expect(send(&queue, from: 4) == [2])
  }

  @Test(
    "holds the messages for an exchange that does not take one, tries one after a growing delay, and sends the others")
  func holds() throws {
    var queue = queue(event(0, 0), event(1, 1, .created), event(2, 2), event(3, 0, .created))
    #expect(send(&queue, from: 1) == [0, 1, 2])
    for event in queue.take(1, multiple: false) + queue.take(3, multiple: false) { queue.refused(event, "full", start) }
    // One try, though two messages of it failed.
    #expect(queue.holds[.initiated]?.attempts == 1)
    #expect(confirm(&queue, 2) == [1])
    queue.add(event(4, 3))
    #expect(send(&queue, from: 4).isEmpty)
    #expect(send(&queue, from: 4, at: 11) == [2])
    let probe = try #require(queue.take(4, multiple: false).first)
    queue.refused(probe, "full", start + .seconds(11))
    #expect(queue.holds[.initiated]?.attempts == 2)
    #expect(send(&queue, from: 5, at: 20).isEmpty)
    #expect(send(&queue, from: 5, at: 32) == [2])
    let sent = try #require(queue.take(5, multiple: false).first)
    #expect(queue.confirmed(sent) && queue.holds.isEmpty)
    #expect(Set(send(&queue, from: 6, at: 32)) == [0, 4])
    #expect(confirm(&queue, 6, multiple: true).count == 1)
  }

  @Test("a held exchange without messages is tried with the first one that comes")
  func emptyHold() {
    var queue = queue()
    queue.hold(.completed, "another type", start)
    queue.add(event(0, 0, .completed))
    #expect(send(&queue, from: 1).isEmpty && queue.nextTry != nil)
    #expect(send(&queue, from: 1, at: 11) == [0])
    #expect(confirm(&queue, 1) == [0] && queue.holds.isEmpty)
  }

  /// One of the last tags, which are in flight, or were.
  private func recent(_ tag: UInt64, _ random: inout SeededRandom) -> UInt64 {
    tag - min(tag, UInt64.random(in: 0..<12, using: &random))
  }

  @Test(
    "in any order of failures each event is confirmed, and a payment's first tries are in its order", arguments: 0..<200
  )
  func random(seed: Int) {
    var random = SeededRandom(seed: UInt64(seed))
    var queue = PublishQueue(backoff: Backoff(base: .milliseconds(1), cap: .milliseconds(4)))
    var now = start
    var tag: UInt64 = 0
    var lastTried: [PaymentID: UInt64] = [:]
    var finished: Set<UInt64> = []
    let types = PaymentEvent.TypeName.allCases
    for offset in 0..<60 {
      queue.add(
        event(UInt64(offset), Int.random(in: 0..<4, using: &random), types[Int.random(in: 0..<3, using: &random)]))
    }
    var steps = 0
    while finished.count < 60, steps < 100_000 {
      steps += 1
      now += .milliseconds(1)
      while queue.inFlightCount < 8, let next = queue.next(now) {
        if let last = lastTried[next.payment] { #expect(next.offset >= last, "seed \(seed)") }
        lastTried[next.payment] = next.offset
        tag += 1
        queue.sent(next, tag: tag)
      }
      switch Int.random(in: 0..<10, using: &random) {
      case 0: _ = queue.disconnected()
      case 1...3:
        for event in queue.take(recent(tag, &random), multiple: .random(using: &random)) {
          queue.refused(event, "full", now)
        }
      default:
        for event in queue.take(recent(tag, &random), multiple: .random(using: &random)) {
          #expect(finished.insert(event.offset).inserted, "seed \(seed)")
          _ = queue.confirmed(event)
        }
      }
    }
    #expect(finished.count == 60 && queue.count == 0, "seed \(seed)")
  }
}

/// SplitMix64 (https://prng.di.unimi.it/splitmix64.c).
private struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
