import Hummingbird

/// A request for the event stream: the first offset, and the type of events.
struct EventStreamQuery: Sendable, Hashable {
  /// The first offset that is sent.
  let offset: UInt64
  /// Nil for all.
  private(set) var type: String?

  /// All types of events that there are on a log.
  private static let types = PaymentEvent.TypeName.allCases.map(\.rawValue) + [OperatorAction.eventType]

  /// Reads `from` and `type`, and `Last-Event-ID`, which overrides `from`.
  ///
  /// - Parameters:
  ///   - lastEventID: the values of the field: an offset, optionally after the store's id and a hyphen.
  ///   - end: the offset of the log's next event.
  /// - Throws: ``Problem`` that names the mistake. An unknown parameter is a mistake too: a misspelt filter must not show
  ///   everything. So is an offset past the end: the client followed another log, or one that has lost events since, and would
  ///   miss new events.
  init(_ parameters: Parameters, lastEventID: [String], storeID: String, end: UInt64) throws(Problem) {
    var from: String?
    var type: String?
    for (name, value) in parameters {
      switch name {
      case "from" where from == nil: from = String(value)
      case "type" where type == nil: type = String(value)
      case "from", "type": throw Problem.badRequest("\(name) is given twice.")
      default: throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
      }
    }
    if let type {
      guard Self.types.contains(type) else {
        throw Problem.badRequest("type must be one of \(Self.types.joined(separator: ", ")).")
      }
      self.type = type
    }
    guard lastEventID.count < 2 else { throw Problem.badRequest("Last-Event-ID is given twice.") }
    let given: UInt64?
    if let id = lastEventID.first {
      let last = try Self.offset(id, "Last-Event-ID must be the id of an event", storeID, end)
      // No event has the offset UInt64.max.
      given = last < .max ? last + 1 : last
    } else if let from, from != "end" {
      given = try Self.offset(from, "from must be an offset, the id of an event, or end", storeID, end)
    } else {
      given = nil
    }
    if let given, given > end { throw Self.pastEnd(storeID, end) }
    offset = given ?? end
  }

  private static func offset(
    _ text: String, _ refusal: String, _ storeID: String, _ end: UInt64
  ) throws(Problem) -> UInt64 {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard (1...2).contains(parts.count), let digits = parts.last, digits.utf8.allSatisfy({ (48...57).contains($0) }),
      (1...20).contains(digits.utf8.count), let offset = UInt64(digits)
    else { throw Problem.badRequest("\(refusal).") }
    // Ids of earlier versions had 16 more digits after these.
    let isOurs = parts.count == 1 || parts[0].hasPrefix(storeID)
    let digitCounts = [storeID.utf8.count, 2 * storeID.utf8.count]
    guard parts.count == 1 || digitCounts.contains(parts[0].utf8.count) else { throw Problem.badRequest("\(refusal).") }
    if !isOurs {
      throw Problem(
        status: .conflict, name: "other-log",
        detail: "The id belongs to another log. This log is \(storeID), and its next event has the offset \(end).")
    }
    return offset
  }

  private static func pastEnd(_ storeID: String, _ end: UInt64) -> Problem {
    Problem(
      status: .conflict, name: "past-end",
      detail:
        "The offset is past the end of the log \(storeID), whose next event has the offset \(end): the log was restored from "
        + "a backup, or it is another log. Read its events again from the last offset at which yours agree with it.")
  }
}
