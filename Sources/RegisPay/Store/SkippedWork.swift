import LogStore
import Logging

/// Records the work that step consumers had to skip, in a stream of its own, and resumes it when it becomes readable: after a
/// file was restored, or with a program that knows the events. The work is steps of payments that refused commands, and offsets
/// that could not be read, whose events may have requested a step.
///
/// Safe to use from any task.
struct SkippedWork: Sendable {
  static let stream = "skipped-work"

  enum TypeName: String, CaseIterable {
    case skipped = "PaymentStepSkipped"
    /// A skipped step was resumed, or is no longer due.
    case resumed = "PaymentStepResumed"
    /// A step's consumer passed over offsets that it could not read.
    case passed = "PaymentStepsPassed"
    /// The offsets were read, and the steps that their events request were resumed.
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
  /// The time between two checks of the skipped work.
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

  /// Runs until its task is cancelled.
  func run() async {
    var open = Open()
    while !Task.isCancelled {
      // Reads files, so not on this thread.
      await RequestThreads.run(.long) { log.damage.recheck() }
      do throws(LogStoreError) {
        // Skips unreadable events of this stream itself.
        let new = try log.follower.lookUp { [open] reader throws(LogStoreError) in
          try reader.stream(Self.stream, from: open.version, skippingMissing: true, endsWithTask: false)
        }
        for event in new { open.take(event) }
        for entry in open.entries { try await resume(entry) }
        for passed in open.passed { try await take(passed) }
      } catch {
        if case .closed = error { return }
        logger.error("can't check skipped steps", metadata: ["error": "\(error)"])
      }
      // Throws only when the task is cancelled; the loop's condition ends the loop.
      try? await Task.sleep(for: interval)
    }
  }

  /// The stream's entries that are neither resumed nor taken.
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

  /// Resumes the steps that passed-over events request, if all of these events are readable by now.
  private func take(_ passed: Passed) async throws(LogStoreError) {
    var next = passed.offsets.lowerBound
    var entries: [Entry] = []
    do throws(LogStoreError) {
      while next < passed.offsets.upperBound {
        let before = next
        let limit = Int(min(passed.offsets.upperBound - next, Self.batch))
        let events = try log.follower.lookUp { reader throws(LogStoreError) in
          try reader.events(from: before, limit: limit, endsWithTask: false)
        }
        for event in events where event.offset < passed.offsets.upperBound {
          next = event.offset + 1
          guard let id = PaymentID(stream: event.stream),
            let work = (try? PaymentEvent(type: event.type, payload: event.payload))?.work, work.step == passed.step
          else { continue }
          entries.append(Entry(id: id, work: work))
        }
        // A repair has left a gap: the rest of the range has no events.
        if next == before { break }
      }
    } catch {
      // The entry stays open, and the damage is shown.
      guard error.isLocalDamage else { throw error }
      return
    }
    for entry in entries where await !resumeIfReadable(entry) {
      _ = try await log.append(Append([Self.event(.skipped, entry)]))
    }
    _ = try await log.append(Append([Self.event(.taken, passed)]))
    logger.notice(
      "a passed-over range can be read again, and its steps are resumed",
      metadata: ["step": "\(passed.step)", "offset": "\(passed.offsets.lowerBound)", "steps": "\(entries.count)"])
  }

  private static let batch: UInt64 = 256

  /// Resumes a step if its payment accepts commands by now.
  private func resume(_ entry: Entry) async throws(LogStoreError) {
    guard await resumeIfReadable(entry) else {
      // The step keeps waiting, and is shown.
      return log.damage.skip(entry.id, entry.work, reason: "its payment can't be read or decided on")
    }
    _ = try await log.append(Append([Self.event(.resumed, entry)]))
    log.damage.resumed(entry.id, entry.work)
  }

  /// - Returns: false if the payment can't be read or refuses commands.
  private func resumeIfReadable(_ entry: Entry) async -> Bool {
    do throws(PaymentLogError) {
      guard let known = try log.load(entry.id), known.newerEvent == nil else { return false }
      if known.payment.isDue(entry.work) {
        // The consumer's checkpoint is past the step: a wait that is over at once makes the consumer load it again. The wait
        // also records whether an earlier process may have tried the step.
        if known.payment.delay(of: entry.work) == nil {
          let delay = Delay(
            entry.work, untilMicroseconds: log.waitTime.microseconds(), attempts: 0, ownFailures: 0,
            reason: "the payment could not be read when its turn came",
            mayHaveHappened: log.trace(of: entry.work, in: known, keyLifetime: nil).mayHaveHappened,
            didTimeOut: false)
          _ = try await log.request(.delay(delay), of: entry.id)
        }
        logger.notice("a skipped step is resumed", metadata: ["payment": "\(entry.id)", "step": "\(entry.work)"])
      }
      return true
    } catch {
      return false
    }
  }
}
