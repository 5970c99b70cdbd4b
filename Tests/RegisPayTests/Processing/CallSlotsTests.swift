import SeededRandom
import Testing

@testable import RegisPay

@Suite("A consumer's call slots")
struct CallSlotsTests {
  private let start = ContinuousClock.now
  private static let limits = CallSlots.Limits(callLimit: 8, slowAfter: .seconds(1))

  /// Begins calls of a lane while there is room.
  private func fill(_ slots: inout CallSlots, _ lane: CallSlots.Lane, at now: ContinuousClock.Instant) -> [Int] {
    var numbers: [Int] = []
    while slots.hasRoom(lane) { numbers.append(slots.begin(lane, now: now)) }
    return numbers
  }

  @Test("first tries take all that is left, retries a quarter, and payments that have timed out a separate quarter")
  func shares() {
    var slots = CallSlots(limits: Self.limits)
    #expect(fill(&slots, .retry, at: start).count == 2)
    #expect(fill(&slots, .first, at: start).count == 6)
    #expect(fill(&slots, .timedOut, at: start).count == 2)
    #expect(!CallSlots.Lane.allCases.contains { slots.hasRoom($0) })
    #expect(slots.count == 10)
  }

  @Test("a call that ends frees its slot, once")
  func ends() {
    var slots = CallSlots(limits: Self.limits)
    for lane in CallSlots.Lane.allCases {
      let numbers = fill(&slots, lane, at: start)
      slots.end(numbers[0], isAccepted: false, now: start)
      slots.end(numbers[0], isAccepted: false, now: start)
      #expect(fill(&slots, lane, at: start).count == 1)
      for number in numbers { slots.end(number, isAccepted: false, now: start) }
    }
  }

  @Test("calls that hang free their slots, up to twice as many as there are slots")
  func slow() {
    var slots = CallSlots(limits: Self.limits)
    var now = start
    for _ in 0..<3 {
      #expect(fill(&slots, .first, at: now).count == 8)
      #expect(slots.nextAging == now + .seconds(1))
      slots.age(to: now + .milliseconds(999))
      #expect(!slots.hasRoom(.first))
      now += .seconds(1)
      slots.age(to: now)
    }
    #expect(slots.slowCount == 24)
    #expect(!slots.hasRoom(.first) && !slots.hasRoom(.retry))
    #expect(slots.hasRoom(.timedOut), "what has hung before has its own")
    #expect(slots.nextAging == nil)
  }

  @Test("slow calls beyond their share are abandoned for others that wait, the youngest first and no more than needed")
  func givenUp() {
    var slots = CallSlots(limits: Self.limits)
    var (now, numbers) = (start, [Int]())
    for _ in 0..<3 {
      numbers += fill(&slots, .first, at: now)
      now += .seconds(1)
      #expect(slots.abandon(for: 100, now: now).isEmpty, "young calls, and slow ones within the share, continue")
      slots.age(to: now)
    }
    #expect(slots.abandon(for: 0, now: now).isEmpty)
    #expect(slots.abandon(for: 3, now: now) == [numbers[23]], "no call succeeds promptly: one is abandoned as a probe")
    #expect(slots.nextProbe == now + .seconds(1))
    #expect(slots.abandon(for: 3, now: now + .milliseconds(999)).isEmpty, "the dependency may be slow for all calls")
    slots.end(slots.begin(.first, now: now), isAccepted: true, now: now)
    #expect(slots.abandon(for: 3, now: now) == [numbers[22], numbers[21]], "now it is known")
    #expect(slots.abandon(for: 3, now: now).isEmpty, "these are on their way out")
    #expect(slots.abandon(for: 100, now: now + .seconds(6)) == [numbers[20]], "that is long ago")
    #expect(slots.abandon(for: 100, now: now) == numbers.dropLast(4).suffix(4).reversed())
    #expect(!slots.hasRoom(.first), "they have not ended")
    for number in numbers.suffix(8) { slots.end(number, isAccepted: false, now: now) }
    #expect(fill(&slots, .first, at: now).count == 8 && slots.slowCount == 16)
    for number in numbers.prefix(16) { slots.end(number, isAccepted: false, now: now) }
    slots.age(to: now + .seconds(1))
    #expect(slots.abandon(for: 100, now: now).isEmpty, "the share has room again")
  }

  @Test("payments that have timed out take no more than their share, however long each hangs again")
  func timedOut() {
    var slots = CallSlots(limits: Self.limits)
    _ = fill(&slots, .timedOut, at: start)
    slots.age(to: start + .seconds(100))
    #expect(!slots.hasRoom(.timedOut) && slots.hasRoom(.first) && slots.timedOutRoom == 0)
  }

  @Test("whatever begins, ends and ages, the counts are those of the calls in flight")
  func random() {
    var random = SeededGenerator.printed("TEST_REGISPAY_SEED")
    for _ in 0..<200 {
      var slots = CallSlots(limits: Self.limits)
      var out: [(number: Int, lane: CallSlots.Lane, began: ContinuousClock.Instant)] = []
      var now = start
      for _ in 0..<300 {
        now += .milliseconds(Int.random(in: 0...100, using: &random))
        slots.age(to: now)
        let slowBefore = out.count { $0.lane != .timedOut && $0.began + .seconds(1) <= now }
        switch Int.random(in: 0..<4, using: &random) {
        case 3:
          let given = slots.abandon(for: Int.random(in: 0...20, using: &random), now: now)
          #expect(given.count <= max(0, slowBefore - 16) && Set(given).count == given.count)
          out.removeAll { given.contains($0.number) }
          for number in given { slots.end(number, isAccepted: false, now: now) }
        case 0 where !out.isEmpty:
          let ended = out.remove(at: Int.random(in: out.indices, using: &random)).number
          slots.end(ended, isAccepted: Bool.random(using: &random), now: now)
        default:
          let lane = CallSlots.Lane.allCases.randomElement(using: &random) ?? .first
          if slots.hasRoom(lane) { out.append((slots.begin(lane, now: now), lane, now)) }
        }
        let slow = out.filter { $0.lane != .timedOut && $0.began + .seconds(1) <= now }.count
        let timedOut = out.filter { $0.lane == .timedOut }.count
        let young = out.count - slow - timedOut
        let retry = out.filter { $0.lane == .retry && $0.began + .seconds(1) > now }.count
        #expect(slots.count == out.count && slots.slowCount == slow && slots.timedOutRoom == 2 - timedOut)
        #expect(slots.hasRoom(.first) == (young + max(0, slow - 16) < 8))
        #expect(slots.hasRoom(.retry) == (young + max(0, slow - 16) < 8 && retry < 2))
        #expect(out.count <= Self.limits.total)
      }
    }
  }
}
