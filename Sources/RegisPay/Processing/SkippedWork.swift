import LogStore
import Logging

/// Steps that were skipped since their payment could not be decided on: kept on the log, in a stream of their own, so that
/// they go on when the payment can be read again, after a file was restored or with the program that knows its events.
///
/// Safe to use from any task.
struct SkippedWork: Sendable {
  static let stream = "skipped-work"

  enum TypeName: String, CaseIterable {
    case skipped = "PaymentStepSkipped"
    /// It goes on, or there is nothing left to do.
    case resumed = "PaymentStepResumed"
  }

  struct Entry: Sendable, Hashable {
    var id: PaymentID
    var work: PaymentWork
  }

  let log: PaymentLog
  let logger: Logger
  /// From one look at what was skipped to the next.
  var interval = Duration.seconds(60)

  static func event(_ type: TypeName, _ entry: Entry) -> NewEvent {
    var members: [JSONValue.Member] = [
      .init("paymentId", .string(entry.id.description)), .init("step", .string(entry.work.step.rawValue)),
    ]
    if let refund = entry.work.refund { members.append(.init("refund", .integer(refund))) }
    return NewEvent(stream: stream, type: type.rawValue, payload: JSONValue.object(members).bytes)
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
    var open: [Entry] = []
    var version: UInt64 = 1
    while !Task.isCancelled {
      do throws(LogStoreError) {
        // What can't be read of this stream itself is left out.
        for event in try log.reader.stream(Self.stream, from: version, skippingMissing: true) {
          version = event.version + 1
          guard let entry = Self.entry(event) else { continue }
          switch TypeName(rawValue: event.type) {
          case .skipped: if !open.contains(entry) { open.append(entry) }
          case .resumed: open.removeAll { $0 == entry }
          case nil: break
          }
        }
        for entry in open { try await resume(entry) }
      } catch {
        if case .closed = error { return }
        logger.error("can't look at skipped steps", metadata: ["error": "\(error)"])
      }
      // Cancelled when the server stops.
      try? await Task.sleep(for: interval)
    }
  }

  /// Lets a step go on if its payment can be read by now.
  private func resume(_ entry: Entry) async throws(LogStoreError) {
    do throws(PaymentLogError) {
      guard let known = try log.load(entry.id), known.newerEvent == nil else { return note(entry) }
      if known.payment.isDue(entry.work) {
        // Its consumer's cursor is past it: it is told again as what waits for a time, and that time is now. What an
        // earlier process may have tried is kept with it.
        if known.payment.delay(of: entry.work) == nil {
          let delay = Delay(
            entry.work, untilMicroseconds: Clock.microseconds(), attempts: 0, ownFailures: 0,
            reason: "the payment could not be read when its turn came",
            mayHaveHappened: known.trace(of: entry.work, openedAt: log.openedAt).mayHaveHappened)
          _ = try await log.request(.delay(delay), of: entry.id)
        }
        logger.notice("a skipped step goes on", metadata: ["payment": "\(entry.id)", "step": "\(entry.work)"])
      }
    } catch {
      return note(entry)
    }
    _ = try await log.append(Append([Self.event(.resumed, entry)]))
    log.damage.resumed(entry.id, entry.work)
  }

  /// It has to wait, and is seen.
  private func note(_ entry: Entry) {
    log.damage.skip(entry.id, entry.work, reason: "its payment can't be read or decided on")
  }
}
