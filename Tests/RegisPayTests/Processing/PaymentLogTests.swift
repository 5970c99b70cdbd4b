import LogStore
import Testing

@testable import RegisPay

@Suite("Payments on the log")
struct PaymentLogTests {
  private static let nowhere = CursorCommit(name: "test", checkpoint: 0)
  private static let pound = Money(minorUnits: 100, currency: Currency.supported[0])

  @Test("of concurrent different decisions, one is appended and the others are refused")
  func oneDecision() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      for _ in 0..<20 {
        let id = try await log.initiate(Self.pound)
        let commands =
          (0..<10).map { PaymentCommand.recordCreated(reference: "r\($0)") } + [
            .park(PaymentWork(.create), reason: "no")
          ]
        let appended = try await withThrowingTaskGroup(of: PaymentLog.Executed.self) { group in
          for command in commands.shuffled() {
            group.addTask { try await log.record(command, on: id, cursor: Self.nowhere) }
          }
          return try await group.reduce(into: [PaymentEvent]()) {
            if case .appended(let events, _) = $1 { $0 += events }
          }
        }
        #expect(appended.count == 1)
        let events = try store.reader.stream(id.stream)
        #expect(events.map(\.type) == ["PaymentInitiated", appended[0].type])
        #expect(events[1].payload == appended[0].payload)
      }
    }
  }

  @Test("after conflicting appends the payment is read and decided again, however often")
  func conflicts() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      for _ in 0..<20 {
        let id = try await log.initiate(Self.pound)
        // Changes nothing.
        let delayed = PaymentEvent.delayed(
          Delay(PaymentWork(.create), untilMicroseconds: 1, attempts: 1, ownFailures: 0, reason: "busy"))
        let note = NewEvent(stream: id.stream, type: delayed.type, payload: delayed.payload)
        let executed = try await withThrowingTaskGroup(of: PaymentLog.Executed?.self) { group in
          for _ in 0..<50 {
            group.addTask {
              _ = try await store.append(Append(note))
              return nil
            }
          }
          group.addTask { try await log.record(.recordCreated(reference: "r"), on: id, cursor: Self.nowhere) }
          return try await group.reduce(into: [PaymentLog.Executed]()) { if let executed = $1 { $0.append(executed) } }
        }
        let appended: [[PaymentEvent]] = executed.map { if case .appended(let events, _) = $0 { events } else { [] } }
        #expect(appended == [[.created(reference: "r")]])
        #expect(try log.load(id)?.payment.reference == "r")
      }
    }
  }

  @Test("a cursor is committed with the event, and not without it")
  func cursor() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.pound)
      let place = CursorCommit(name: "c", checkpoint: 1)
      let refused = try await log.record(.recordSettled, on: id, cursor: place)
      #expect(refused == .refused(.notDue(.initiated)))
      #expect(try store.reader.cursor("c") == nil)
      _ = try await log.record(.recordCreated(reference: "r"), on: id, cursor: place)
      #expect(try store.reader.cursor("c") == 1)
    }
  }

  @Test("a payment loaded before a step does not refuse what it allows by now")
  func stale() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.pound)
      let before = try log.load(id)
      _ = try await log.record(.recordCreated(reference: "r"), on: id, cursor: Self.nowhere)
      let settled = try await log.record(.recordSettled, on: id, as: before, cursor: Self.nowhere)
      #expect(settled == .appended([.settled], version: 3))
    }
  }

  @Test(
    "of two late decisions that begin with the same event, the second is told what the first has made of the payment")
  func sameBeginning() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.pound)
      _ = try await log.record(.markUnknown(PaymentWork(.create), reason: "no response"), on: id, cursor: Self.nowhere)
      let before = try log.load(id)
      _ = try await log.record(.recordCreated(reference: "a"), on: id, as: before, cursor: Self.nowhere)
      let second = try await log.record(.recordCreated(reference: "b"), on: id, as: before, cursor: Self.nowhere)
      #expect(second == .refused(.notDue(.created)))
      #expect(try log.load(id)?.payment.reference == "a")
    }
  }

  @Test("a missing payment is nil, and a stream that makes no payment is an error that names it")
  func missing() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = PaymentID.random()
      #expect(try log.load(id) == nil)
      await #expect(throws: PaymentLogError.self) {
        try await log.record(.recordSettled, on: id, cursor: Self.nowhere)
      }
      let event = PaymentEvent.completed
      _ = try await store.append(Append(NewEvent(stream: id.stream, type: event.type, payload: event.payload)))
      let error = #expect(throws: PaymentLogError.self) { try log.load(id) }
      #expect(error?.description.contains(id.description) == true)
    }
  }

  @Test("concurrent requests are decided one after the other: two equal refunds are two, and never too much")
  func equalRefunds() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      for _ in 0..<10 {
        let id = try await log.initiate(Self.pound)
        for command in [.recordCreated(reference: "r"), .recordSettled, .recordCompleted] as [PaymentCommand] {
          _ = try await log.record(command, on: id, cursor: Self.nowhere)
        }
        let third = Money(minorUnits: 30, currency: Self.pound.currency)
        let results = try await withThrowingTaskGroup(of: PaymentLog.Executed.self) { group in
          for _ in 0..<10 { group.addTask { try await log.request(.refund(third), of: id) } }
          return try await group.reduce(into: [PaymentLog.Executed]()) { $0.append($1) }
        }
        let appended = Set(results).intersection(
          (1...10).map { .appended([.refundRequested($0, third)], version: 4 + UInt64($0)) })
        #expect(appended.count == 3)
        #expect(try log.load(id)?.payment.refunds.map(\.number) == [1, 2, 3])
        #expect(results.filter { if case .refused(.refundTooLarge) = $0 { true } else { false } }.count == 7)
      }
    }
  }
}
