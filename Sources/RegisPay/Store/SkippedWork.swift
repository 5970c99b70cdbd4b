import LogStore
import Logging

/// What consumers of steps had to leave out, kept on the log in a stream of its own, so that it goes on when it can be read
/// again, after a file was restored or with the program that knows its events: steps of a payment that could not be decided
/// on, and offsets that could not be read, whose events may have asked for a step.
///
/// Safe to use from any task.
struct SkippedWork: Sendable {
  static let stream = "skipped-work"

  enum TypeName: String, CaseIterable {
    case skipped = "PaymentStepSkipped"
    /// It goes on, or there is nothing left to do.
    case resumed = "PaymentStepResumed"
    /// A step's consumer went past offsets that it could not read.
    case passed = "PaymentStepsPassed"
    /// They were read, and what they ask for goes on.
    case taken = "PaymentStepsTaken"
  }

  struct Passed: Sendable, Hashable {
    var step: PaymentStep
    /// Not empty.
    var offsets: Range<UInt64>
  }

  struct Entry: Sendable, Hashable {
    var id: PaymentID
    var work: PaymentWork
  }

  let log: PaymentLog
  let logger: Logger
  /// From one look at what was skipped to the next.
  var interval = Duration.seconds(15)

  static func event(_ type: TypeName, _ entry: Entry) -> NewEvent {
    var members: [JSONValue.Member] = [
      .init("paymentId", .string(entry.id.description)), .init("step", .string(entry.work.step.rawValue)),
    ]
    if let refund = entry.work.refund { members.append(.init("refund", .integer(refund))) }
    return NewEvent(stream: stream, type: type.rawValue, payload: JSONValue.object(members).bytes)
  }

  static func event(_ type: TypeName, _ passed: Passed) -> NewEvent {
    let payload: JSONValue = [
      "step": .string(passed.step.rawValue), "from": .integer(passed.offsets.lowerBound),
      "to": .integer(passed.offsets.upperBound - 1),
    ]
    return NewEvent(stream: stream, type: type.rawValue, payload: payload.bytes)
  }

  private static func passed(_ event: Event) -> Passed? {
    guard let data = try? JSONReader.read(event.payload), let step = PaymentStep(rawValue: data["step"]?.text ?? ""),
      case .number(let from) = data["from"], case .number(let to) = data["to"], let from = UInt64(from),
      let to = UInt64(to), from <= to, to < .max
    else { return nil }
    return Passed(step: step, offsets: from..<to + 1)
  }

  private static func entry(_ event: Event) -> Entry? {
    guard let data = try? JSONReader.read(event.payload), let id = PaymentID(data["paymentId"]?.text ?? ""),
      let step = PaymentStep(rawValue: data["step"]?.text ?? "")
    else { return nil }
    var refund: Int?
    if case .number(let text) = data["refund"] { refund = Int(text) }
    return PaymentWork(step, refund: refund).map { Entry(id: id, work: $0) }
  }

  /// Works until its task is cancelled.
  func run() async {
    var open = Open()
    while !Task.isCancelled {
      // Reads files, on whichever thread looks at them.
      await RequestThreads.run(.long) { log.damage.lookAgain() }
      do throws(LogStoreError) {
        // What can't be read of this stream itself is left out.
        let new = try log.follower.look { [open] reader throws(LogStoreError) in
          try reader.stream(Self.stream, from: open.version, skippingMissing: true, endsWithTask: false)
        }
        for event in new { open.take(event) }
        for entry in open.entries { try await resume(entry) }
        for passed in open.passed { try await take(passed) }
      } catch {
        if case .closed = error { return }
        logger.error("can't look at skipped steps", metadata: ["error": "\(error)"])
      }
      // Throws only when the task is cancelled, as the server stops; the loop's condition sees that.
      try? await Task.sleep(for: interval)
    }
  }

  /// What is left of the stream so far.
  private struct Open {
    var version: UInt64 = 1
    var entries: [Entry] = []
    var passed: [Passed] = []

    mutating func take(_ event: Event) {
      version = event.version + 1
      switch TypeName(rawValue: event.type) {
      case .skipped: if let entry = SkippedWork.entry(event), !entries.contains(entry) { entries.append(entry) }
      case .resumed: if let entry = SkippedWork.entry(event) { entries.removeAll { $0 == entry } }
      case .passed: if let new = SkippedWork.passed(event), !passed.contains(new) { passed.append(new) }
      case .taken: if let old = SkippedWork.passed(event) { passed.removeAll { $0 == old } }
      case nil: break
      }
    }
  }

  /// Lets the steps go on that events ask for which were passed over, if all of them can be read by now.
  private func take(_ passed: Passed) async throws(LogStoreError) {
    var place = passed.offsets.lowerBound
    var entries: [Entry] = []
    do throws(LogStoreError) {
      while place < passed.offsets.upperBound {
        let before = place
        let limit = Int(min(passed.offsets.upperBound - place, Self.batch))
        let events = try log.follower.look { reader throws(LogStoreError) in
          try reader.events(from: before, limit: limit, endsWithTask: false)
        }
        for event in events where event.offset < passed.offsets.upperBound {
          place = event.offset + 1
          guard let id = PaymentID(stream: event.stream),
            let work = (try? PaymentEvent(type: event.type, payload: event.payload))?.work, work.step == passed.step
          else { continue }
          entries.append(Entry(id: id, work: work))
        }
        // A gap that a repair has left: nothing is there that could be read.
        if place == before { break }
      }
    } catch {
      // It stays as it is, and is seen as damage.
      guard error.isOfAPlace else { throw error }
      return
    }
    for entry in entries where await !goOn(entry) {
      _ = try await log.append(Append([Self.event(.skipped, entry)]))
    }
    _ = try await log.append(Append([Self.event(.taken, passed)]))
    logger.notice(
      "what was passed over can be read again, and its steps go on",
      metadata: ["step": "\(passed.step)", "offset": "\(passed.offsets.lowerBound)", "steps": "\(entries.count)"])
  }

  private static let batch: UInt64 = 256

  /// Lets a step go on if its payment can be read by now.
  private func resume(_ entry: Entry) async throws(LogStoreError) {
    guard await goOn(entry) else {
      // It has to wait, and is seen.
      return log.damage.skip(entry.id, entry.work, reason: "its payment can't be read or decided on")
    }
    _ = try await log.append(Append([Self.event(.resumed, entry)]))
    log.damage.resumed(entry.id, entry.work)
  }

  /// - Returns: false if the payment can't be read or decided on.
  private func goOn(_ entry: Entry) async -> Bool {
    do throws(PaymentLogError) {
      guard let known = try log.load(entry.id), known.newerEvent == nil else { return false }
      if known.payment.isDue(entry.work) {
        // Its consumer's cursor is past it: it is told again as what waits for a time, and that time is now. What an
        // earlier process may have tried is kept with it.
        if known.payment.delay(of: entry.work) == nil {
          let delay = Delay(
            entry.work, untilMicroseconds: log.waitTime.microseconds(), attempts: 0, ownFailures: 0,
            reason: "the payment could not be read when its turn came",
            mayHaveHappened: known.trace(of: entry.work, openedAt: log.openedAt).mayHaveHappened,
            isUnanswered: false)
          _ = try await log.request(.delay(delay), of: entry.id)
        }
        logger.notice("a skipped step goes on", metadata: ["payment": "\(entry.id)", "step": "\(entry.work)"])
      }
      return true
    } catch {
      return false
    }
  }
}
