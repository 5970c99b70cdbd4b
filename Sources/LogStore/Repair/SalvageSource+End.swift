// Index files, and where the log ended.

extension SalvageSource {
  func mapIndex(_ name: String) throws(LogStoreError) -> Mapping? {
    let path = join(directory, name)
    guard try disk.kind(path) == .file else { return nil }
    let file = try disk.open(path, .read)
    return try map(file, byteCount: Int(clamping: try file.byteCount()))
  }

  mutating func addIndexes(_ names: [String]) throws(LogStoreError) {
    for name in names {
      guard let range = FileName.indexRange(name) else { continue }
      let path = join(directory, name)
      let mapping: Mapping
      do throws(LogStoreError) {
        guard let mapped = try mapIndex(name) else { continue }
        mapping = mapped
      } catch .unreadable(let damage) {
        // The log has everything that the index file has.
        findings.append(damage)
        continue
      }
      do throws(Fault) {
        indexes.append(
          try IndexFile(
            mapping, path: path, storeID: store.storeID, baseOffset: range.lowerBound, endOffset: range.upperBound))
      } catch {
        findings.append(Damage(file: path, position: UInt64(error.position), reason: error.reason))
      }
    }
  }

  func findBases() -> Set<UInt64> {
    var bases = Set(parts.map(\.baseOffset))
    for part in parts {
      if let previous = part.header?.previousBaseOffset, previous != SegmentHeader.noPrevious { bases.insert(previous) }
    }
    for index in indexes { bases.formUnion(index.header.segments.map(\.baseOffset) + [index.endOffset]) }
    if let clean { bases.insert(clean.baseOffset) }
    // A base offset inside a segment that is there comes from another history.
    for file in evidence { bases = bases.filter { $0 <= file.baseOffset || $0 >= file.endOffset } }
    return bases
  }

  /// A clean mark that a segment goes past was not written by the segment's writer. Neither was one that names another end
  /// than the one at which the last file ends and that `tail` names.
  mutating func checkClean(_ notice: TailNotice?) {
    guard let found = clean else { return }
    if let last = evidence.last(where: { $0.baseOffset <= found.baseOffset }),
      found.baseOffset == last.baseOffset && found.endOffset < last.endOffset
        || found.baseOffset > last.baseOffset && found.baseOffset < last.endOffset
    {
      note(FileName.clean, 32, "the log goes on behind the end at which this says that it was closed")
      clean = nil
    } else if let notice, let last = evidence.last, last.isWholeEnd(notice), !last.isEnd(found) {
      note(FileName.clean, 32, "the log ends with offset \(last.endOffset), as tail says too; this says otherwise")
      clean = nil
    }
    if let notice, evidence.contains(where: { $0.testimony(on: notice) == .denies }) {
      note(FileName.tail, 12, "it names another segment of offset \(notice.end.baseOffset) than the one that is there")
    }
    dropForeignIndexes(notice)
  }

  /// An index is built only when the next segment exists. So if the log ends where `clean` says, or where `tail` says that
  /// the log was closed, no index may know a segment behind the last one.
  private mutating func dropForeignIndexes(_ notice: TailNotice?) {
    guard let last = evidence.last else { return }
    let isClosed = clean.map(last.isEnd) ?? false
    let wasClosed = notice.map { $0.state == .closed && last.isWholeEnd($0) } ?? false
    guard isClosed || wasClosed else { return }
    dropIndexes(behind: last.baseOffset)
  }

  /// Ignores index files that name another last frame of a segment than the next segment of the history does.
  mutating func dropIndexesOfOthers() {
    let chains = Dictionary(
      parts.compactMap { part in part.header.map { ($0.previousBaseOffset, $0.chain) } },
      uniquingKeysWith: { one, _ in one })
    indexes.removeAll { index in
      let isOther = index.header.segments.contains { segment in
        chains[segment.baseOffset].map { $0 != segment.chain } ?? false
      }
      if isOther {
        findings.append(
          Damage(
            file: index.path, position: UInt64(IndexLayout.Field.endOffset),
            reason: "it was built from another segment than the next one follows"))
      }
      return isOther
    }
  }

  /// Ignores what index files tell of segments behind the one in which the log ended.
  mutating func dropIndexes(behind base: UInt64) {
    for index in indexes where index.endOffset > base {
      findings.append(
        Damage(
          file: index.path, position: UInt64(IndexLayout.Field.endOffset),
          reason: "it tells of a segment behind the end of the log"))
    }
    indexes.removeAll { $0.endOffset > base }
  }

  mutating func findEnd(_ notice: TailNotice?) {
    if let durableEnd {
      indexes.removeAll { $0.endOffset > durableEnd.baseOffset }
      clean = nil
      knownBases = findBases().union([durableEnd.baseOffset]).sorted()
      endOffsetAtLeast = durableEnd.offset
      return
    }
    let lastBase = parts.last?.baseOffset ?? 0
    if let last = indexes.map(\.endOffset).max(), last > lastBase {
      note(FileName.segment(last), 0, "the segment is missing: an index file exists that was built after it began")
    }
    if let found = clean, found.baseOffset < lastBase {
      note(FileName.clean, 40, "the log goes on behind the segment in which this says that it was closed")
      clean = nil
    } else if let found = clean, found.baseOffset > lastBase, indexes.allSatisfy({ $0.endOffset < found.baseOffset }) {
      note(FileName.segment(found.baseOffset), 0, "the segment is missing: the log was closed in it")
    }
    knownBases = findBases().sorted()
    endOffsetAtLeast = max(clean?.endOffset ?? 0, indexes.map(\.endOffset).max() ?? 0)
    // `tail` does not name its store. So it counts only if it names a segment that is known from elsewhere, or one behind
    // the last, which is then missing.
    if let notice,
      knownBases.contains(notice.end.baseOffset) || clean == nil && notice.end.baseOffset > knownBases.last ?? 0
    {
      if !knownBases.contains(notice.end.baseOffset) {
        note(
          FileName.segment(notice.end.baseOffset), 0, "the segment is missing: its writer published its end in it"
        )
        knownBases.append(notice.end.baseOffset)
      }
      endOffsetAtLeast = max(endOffsetAtLeast, notice.end.offset)
    }
  }
}
