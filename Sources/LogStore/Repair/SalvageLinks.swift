/// Whether one segment file can follow another, by what their headers, frames and index files say.
struct SalvageLinks {
  enum Link {
    /// The later file's header has the checksum of the earlier one's last frame.
    case proven
    /// Nothing speaks for it or against it: damage, or a missing segment, lies between.
    case possible
    /// The earlier one has all events and not the last frame: it has lost frames with cursors, or is another one.
    case doubtful
    case contradiction(String)
  }

  /// A disk loses no less.
  private static let sectorByteCount = 512

  /// In order of base offsets.
  let files: [SegmentEvidence]
  let indexes: [IndexFile]

  init(_ found: [SegmentEvidence], indexes: [IndexFile]) {
    files = found.sorted { $0.baseOffset < $1.baseOffset }
    self.indexes = indexes
  }

  subscript(_ earlier: Int, _ later: Int) -> Link {
    let link = byHeaders(files[earlier], files[later])
    // Over a hole the clock tells: no frame is older than one before it.
    if case .possible = link, let before = files[earlier].timestamps, let after = files[later].timestamps,
      before.upperBound > after.lowerBound
    {
      return .contradiction("its first frame is older than the last one of \(files[earlier].name)")
    }
    return link
  }

  private func byHeaders(_ earlier: SegmentEvidence, _ later: SegmentEvidence) -> Link {
    guard earlier.baseOffset < later.baseOffset else {
      return .contradiction("another file is this segment")
    }
    guard earlier.endOffset <= later.part.previousEndOffset else {
      return .contradiction(
        "it begins with offset \(later.baseOffset), and \(earlier.name) has events up to \(earlier.endOffset - 1)")
    }
    guard let header = later.part.header else { return .possible }
    guard header.previousBaseOffset != SegmentHeader.noPrevious else {
      return .contradiction("it says that it is the first segment, and \(earlier.name) is before it")
    }
    guard header.previousBaseOffset >= earlier.baseOffset else {
      return .contradiction("it follows the segment of offset \(header.previousBaseOffset), and not \(earlier.name)")
    }
    guard header.previousBaseOffset == earlier.baseOffset else {
      return earlier.endOffset <= header.previousBaseOffset
        ? .possible
        : .contradiction(
          "it follows a segment that begins with offset \(header.previousBaseOffset), and \(earlier.name) has that event"
        )
    }
    guard earlier.endOffset == header.previousEndOffset, let last = earlier.last else { return .possible }
    // Whatever is lost before it: that frame is there.
    if last.checksum == header.chain { return .proven }
    return earlier.endChain == nil ? .possible : withoutLastFrames(earlier, before: header)
  }

  /// The earlier file has every event that it should have, and its last frame is not the one that the later file names.
  private func withoutLastFrames(_ earlier: SegmentEvidence, before header: SegmentHeader) -> Link {
    let indexed = indexes.flatMap(\.header.segments).filter { $0.baseOffset == earlier.baseOffset }
    if indexed.contains(where: { $0.chain == earlier.endChain }) {
      return .contradiction("the last frame of \(earlier.name) is not the one that it follows")
    }
    // An index file knows the frame that is lost.
    if indexed.contains(where: { $0.chain == header.chain && $0.endPosition > earlier.endPosition }) {
      return .possible
    }
    guard indexed.isEmpty || indexed.contains(where: { $0.endPosition > earlier.endPosition }) else {
      return .contradiction("the last frame of \(earlier.name) is not the one that it follows")
    }
    // Whole sectors, in which frames with cursors alone stood.
    return earlier.endPosition % Self.sectorByteCount == 0 ? .possible : .doubtful
  }
}

extension SegmentEvidence {
  /// Of the segment that it is, whatever the file's.
  var name: String { FileName.segment(baseOffset) }
}
