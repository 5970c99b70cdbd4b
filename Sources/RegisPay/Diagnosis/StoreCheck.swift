import Foundation
import GRDB
import LogStore

/// What the logs hold, whether they are the right ones, and what of their damage shows without reading all of them.
struct StoreCheck: Check {
  let name = CheckName.store
  let directory: String
  /// The server would use the simulator.
  let hasSimulator: Bool

  private static let payments = "payments"
  private static let simulator = "simulator"
  /// Bytes of a file that is asked for lost logs.
  private static let witnessLimit = 32 << 20
  private static let damageAdvice =
    "Run logstore verify on it for all damage, and restore a backup or save the rest (docs/OPERATIONS.md, The disk is damaged)."

  func run() -> [Finding] {
    let place = DataPlace(directory)
    guard place.isThere else { return [.notChecked(name, "there is no data directory yet")] }
    if UnfinishedRestoration.isThere(in: place.path) {
      return [
        .problem(
          name, "a restoration in \(place.path) was not finished, and no server starts",
          advice: "Run regispay restore again, with the same backup.")
      ]
    }
    let known = KnownLog(in: place.path)
    var findings: [Finding] = []
    if LostLog.hasLog("\(place.path)/\(Self.payments)") {
      let (finding, found) = look(Self.payments, place, known)
      let isEmpty = found.map { $0.endOffset == 0 && !$0.hasWriter } ?? false
      let loss = isEmpty ? lost("the log is empty", place) : nil
      findings += loss.map { [$0] } ?? [finding] + (found.map { shorter($0, known, place) } ?? [])
    } else {
      findings.append(lost("the log is missing", place) ?? .ok(name, "payments: there is no log yet"))
    }
    if LostLog.hasLog("\(place.path)/\(Self.simulator)") {
      findings.append(look(Self.simulator, place, nil).finding)
    } else if hasSimulator {
      findings.append(.ok(name, "simulator: there is no log yet"))
    }
    return findings
  }

  /// A log that is not there or has no file, or that has no event.
  ///
  /// - Returns: nil if no log was lost.
  private func lost(_ shown: String, _ place: DataPlace) -> Finding? {
    let advice =
      "Restore the log (regispay restore). To begin with an empty one, move projection, simulator, webhooks and"
      + " \(KnownLog.fileName) out of \(place.path)."
    let projection = place.path + "/projection/payments.sqlite"
    let webhooks = WebhookJournal.path(in: place.path + "/webhooks")
    var unread: [String] = []
    func witness(_ path: String, _ read: (Database) throws -> UInt64?) -> LostLog.Witness? {
      do throws(DatabaseImage.Failure) {
        return try DatabaseImage.read(path, byteLimit: Self.witnessLimit, read)?.map { (path, $0) }
      } catch {
        // That of no log is small.
        if case .tooLarge = error { return (path, 1) }
        unread.append(path)
        return nil
      }
    }
    let witnesses = [
      witness(projection, PaymentTable.eventCount), witness(webhooks, WebhookTable.furthestCheckpoint),
      LostLog.mark(in: place.path),
    ]
    if let known = LostLog.best(witnesses) {
      return .problem(
        name,
        "payments: \(shown), and \(known.path) tells of a log with \(known.checkpoint) events or more: the server does"
          + " not start", advice: advice)
    }
    return unread.first.map {
      .warning(
        name, "payments: \(shown), and \($0), which is made from one, can't be read to tell whether that was another",
        advice: advice)
    }
  }

  private func look(_ log: String, _ place: DataPlace, _ known: KnownLog?) -> (finding: Finding, found: LogInspection?)
  {
    let path = "\(place.path)/\(log)"
    let look: LogInspection
    do throws(LogStoreError) {
      look = try LogInspection.look(at: path)
    } catch {
      switch error {
      case .locked: return (.notChecked(name, "\(log): \(error)"), nil)
      case .damaged, .unreadable, .notAStore, .unsupportedFormat:
        return (.problem(name, "\(log): \(error)", advice: Self.damageAdvice), nil)
      default:
        return (
          .problem(
            name, "\(log): \(error)",
            advice: "Look at the disk and at the permissions: the server can't read it either."),
          nil
        )
      }
    }
    if let first = look.damagedFiles.first {
      let more = look.damagedFiles.count == 1 ? "" : ", and \(look.damagedFiles.count - 1) more files"
      return (.problem(name, "\(log): \(first)\(more)", advice: Self.damageAdvice), look)
    }
    if let id = known?.storeID, !id.isEmpty, !id.hasPrefix(look.storeID), look.endOffset > 0 || known?.events ?? 0 > 0 {
      return (
        .problem(
          name, "\(path) is another log: its id is \(look.storeID), and \(KnownLog.path(in: place.path)) says \(id)",
          advice:
            "Put the right log there (logstore restore), or, if this is the right one, move projection, webhooks and"
            + " \(KnownLog.fileName) out of \(place.path)."), look
      )
    }
    let other =
      log == Self.payments
      ? WrongLog.otherInPaymentsPlace(look.firstType)
      : hasSimulator ? WrongLog.otherInSimulatorsPlace(look.firstType) : nil
    if let other {
      return (
        .problem(
          name, "\(path) holds another log: \(other)",
          advice:
            "Put the right log there (logstore restore), or move this one away: until then the server does not start."),
        look
      )
    }
    let state =
      look.hasWriter
      ? "a server uses it" : look.wasClosedCleanly ? "closed cleanly" : "not closed; the next start finds its end"
    return (
      .ok(
        name,
        "\(log): \(look.endOffset) events in \(look.segmentCount) segment\(look.segmentCount == 1 ? "" : "s") of"
          + " \(Shown.bytes(look.logBytes)), \(state); its end is sound (logstore verify --dir \(path) reads everything)"
      ),
      look
    )
  }

  /// Events that the log has had.
  private func shorter(_ look: LogInspection, _ known: KnownLog?, _ place: DataPlace) -> [Finding] {
    guard let known else { return [] }
    if let fault = known.fault {
      return [
        .warning(
          name, "\(KnownLog.path(in: place.path)) can't be read: \(fault)",
          advice:
            "Look at the file. The server starts without what it says, and would not notice that the log was replaced.")
      ]
    }
    guard known.events > look.endOffset else { return [] }
    return [
      .warning(
        name, "payments: the log ends with offset \(look.endOffset), and it has had \(known.events) events",
        advice:
          "An older backup was restored, or the log has lost its end: see Backup and restore in docs/OPERATIONS.md before"
          + " the server calls the PSP.")
    ]
  }
}

/// Whether calls go to the PSP that the payments were made with.
struct PSPCheck: Check {
  let name = CheckName.psp
  let options: ServerOptions

  func run() -> [Finding] {
    let psp: String
    do throws(EndpointError) {
      psp = try options.psp
    } catch {
      return [.problem(name, "the PSP's URL can't be used: \(error)", advice: "Correct --psp-url.")]
    }
    let shown = OtherPSP.shown(psp)
    let place = DataPlace(options.directory)
    guard let known = KnownLog(in: place.path), known.fault == nil, let before = known.psp else {
      return [.ok(name, "calls go to \(shown); no payment was made yet, or none that says with which PSP")]
    }
    // The file may be some seconds older than the log's first event. What a log that can't be read holds is not known.
    let hasEvents =
      known.events > 0
      || (try? LogInspection.look(at: place.path + "/payments")).map { $0.endOffset > 0 }
        ?? LostLog.hasLog(place.path + "/payments")
    guard before != psp, hasEvents, !options.acceptsNewPSP else { return [.ok(name, "calls go to \(shown)")] }
    return [
      .problem(
        name,
        "the payments in \(place.path) were made with \(OtherPSP.shown(before)), and the PSP would now be \(shown)",
        advice:
          "Start \(OtherPSP.option(before)); or, if both are the same PSP or no payment is unfinished, start once with"
          + " --new-psp.")
    ]
  }
}
