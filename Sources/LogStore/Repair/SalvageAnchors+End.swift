// Where the log ended, although the segment that it ended in may be damaged or missing.

extension SalvageAnchors {
  /// The end that the operator chose, or on which `clean` and a `tail` in state 3 agree. `clean` is removed, and the
  /// directory synced, before a writer writes anything. So both are older than the log only if somebody put them back, and
  /// then a file that goes on behind the end shows it.
  ///
  /// One of them alone is not certain: `clean` may have been put back, and `tail` is never synced.
  static func closedEnd(
    _ clean: CleanEnd?, _ notice: TailNotice?, _ files: [SegmentEvidence], keeping wanted: Keeping
  ) -> DurableEnd? {
    if wanted.clean { return clean?.end }
    if wanted.tail { return notice?.closedEnd }
    guard let clean, let notice, clean.end == notice.closedEnd else { return nil }
    return files.contains { $0.goesOn(behind: clean) } ? nil : clean.end
  }

  /// What a mark of the log's end says of the files that are taken.
  private enum Verdict {
    case confirms, denies, silent

    init(_ testimonies: [SegmentEvidence.Testimony], isPassed: Bool) {
      self =
        isPassed
        ? .denies : testimonies.contains(.names) ? .confirms : testimonies.contains(.denies) ? .denies : .silent
    }
  }

  /// The mark that denies that the log ends as the taken files do, if no mark confirms it.
  func denial(of taken: [Int]) -> String? {
    guard kept.isEmpty else { return nil }
    var isCleanPassed = false
    var denying: [String] = []
    if let clean {
      isCleanPassed = isPassed(clean, by: taken)
      switch Verdict(taken.map { files[$0].testimony(on: clean) }, isPassed: isCleanPassed) {
      case .confirms: return nil
      case .denies: denying.append(FileName.clean)
      case .silent: break
      }
    }
    if let notice {
      switch Verdict(taken.map { files[$0].testimony(on: notice) }, isPassed: isPassed(notice, by: taken)) {
      // A `tail` of the segment in which `clean` says that the log ended confirms nothing of what lies behind.
      case .confirms where isCleanPassed && notice.end.baseOffset <= clean?.baseOffset ?? 0: break
      case .confirms: return nil
      case .denies: denying.append(FileName.tail)
      case .silent: break
      }
    }
    return denying.first
  }

  /// Whether files are taken that begin behind the end that `clean` tells, and nothing shows that `clean` is older than the
  /// log.
  private func isPassed(_ clean: CleanEnd, by taken: [Int]) -> Bool {
    taken.contains { files[$0].baseOffset > clean.baseOffset } && !taken.contains { files[$0].goesOn(behind: clean) }
  }

  /// The same for `tail`. It is never synced, so after a power cut it may be older than the log: then its segment goes on
  /// behind its end, or the next one follows that segment by its chain.
  private func isPassed(_ notice: TailNotice, by taken: [Int]) -> Bool {
    guard let end = notice.closedEnd, taken.contains(where: { files[$0].baseOffset > end.baseOffset }) else {
      return false
    }
    if taken.contains(where: { files[$0].goesOn(behind: notice) }) { return false }
    return !zip(taken, taken.dropFirst()).contains { earlier, later in
      guard files[earlier].baseOffset == end.baseOffset, files[earlier].endOffset >= end.offset else { return false }
      return if case .proven = links[earlier, later] { true } else { false }
    }
  }
}

extension CleanEnd {
  var end: DurableEnd { DurableEnd(offset: endOffset, baseOffset: baseOffset, position: Int(clamping: endPosition)) }
}

extension TailNotice {
  /// The end of the log, if its writer closed it.
  var closedEnd: DurableEnd? { state == .closed ? end : nil }
}
