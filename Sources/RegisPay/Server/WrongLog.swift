import LogStore

/// Finds out whether another log stands in the place of the payments log or of the simulator's, such as a backup of one that was
/// restored to the place of the other. The server would know none of its payments: a client that repeats a request with its
/// idempotency key would pay twice.
enum WrongLog {
  /// Call it before anything is written to the logs. Blocks while the first event of each is read.
  static func check(_ directory: String, payments: LogReader, simulator: LogReader?) throws(ServerError) {
    let first = try firstType(payments)
    let other = otherInPaymentsPlace(first)
    let file = KnownLog(in: directory)
    // Of an empty log nothing is lost.
    let hasEvents = payments.endOffset > 0 || file?.events ?? 0 > 0
    if let known = file?.storeID, hasEvents, !known.isEmpty, !known.hasPrefix(payments.storeID) {
      let others = ["projection", "webhooks", KnownLog.fileName]
      throw .wrongLog(
        path: directory + "/payments",
        reason: "its id is \(payments.storeID), and \(KnownLog.path(in: directory)) says \(known)"
          + (other.map { "; \($0)" } ?? "")
          + ". Put the right log there (logstore restore), or, if this is the right one, move these out of \(directory) first: "
          + others.joined(separator: ", "))
    }
    if let other {
      throw .wrongLog(path: directory + "/payments", reason: "\(other). Put the payments log there (logstore restore)")
    }
    if let simulator { try check(directory + "/simulator", simulator: simulator) }
  }

  /// - Parameter path: the simulator's log.
  static func check(_ path: String, simulator: LogReader) throws(ServerError) {
    if let other = otherInSimulatorsPlace(try firstType(simulator)) {
      throw .wrongLog(
        path: path, reason: "\(other). Put the simulator's log there (logstore restore), or move this one away")
    }
  }

  /// Why a log whose first event has this type is not the payments log; nil if it may be.
  static func otherInPaymentsPlace(_ firstType: String?) -> String? {
    guard let firstType, Simulator.writes(firstType) else { return nil }
    return "its first event has the type \(firstType), which only the simulator writes"
  }

  /// Why a log whose first event has this type is not the simulator's; nil if it may be.
  static func otherInSimulatorsPlace(_ firstType: String?) -> String? {
    guard let firstType, PaymentLog.writes(firstType) else { return nil }
    return "its first event has the type \(firstType), which only the payments log holds"
  }

  /// The type of the first event that can be read; nil if there is none. A type that no program of this version writes proves
  /// nothing, because a newer one may have written it.
  private static func firstType(_ reader: LogReader) throws(ServerError) -> String? {
    var type: String?
    do throws(LogStoreError) {
      try reader.forEach(from: 0, waitsForDisk: false, endsWithTask: false, passingOver: { _ in }) { event in
        type = event.copy().type
        return false
      }
    } catch {
      throw .store(error)
    }
    return type
  }
}
