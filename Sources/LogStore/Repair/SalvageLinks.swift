/// Whether one segment file can follow another, according to their headers, frames and index files.
struct SalvageLinks {
  enum Link {
    /// The later file's header has the checksum of the earlier one's last frame.
    case proven
    /// There is no proof either way: damage, or a missing segment, lies between.
    case possible
    /// The earlier file has all events but not the last frame. It lost frames with cursors, or is another file.
    case doubtful
    case contradiction(String)
  }

  /// A disk loses at least this much.
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
    // Across a hole, time decides: no frame is older than a frame before it.
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
    guard let header = later.part.header else { return byFirstFrame(earlier, later) }
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
    guard let last = earlier.last else { return .possible }
    // The last frame is there, whatever is lost before it.
    if earlier.endOffset == header.previousEndOffset, last.checksum == header.chain { return .proven }
    if let reason = contradiction(of: earlier, followedBy: header.chain) { return .contradiction(reason) }
    // An older state of the file may have been put back.
    guard earlier.endOffset == header.previousEndOffset else { return .possible }
    return earlier.endChain == nil ? .possible : withoutLastFrames(earlier, before: header)
  }

  /// The later file's header is lost. Its first frame has the checksum, too, but does not tell which segment is before it.
  private func byFirstFrame(_ earlier: SegmentEvidence, _ later: SegmentEvidence) -> Link {
    guard let chain = later.chainBefore, let last = earlier.last else { return .possible }
    if last.checksum == chain { return .proven }
    return contradiction(of: earlier, followedBy: chain).map { .contradiction($0) } ?? .possible
  }

  /// Why a file can't be the segment that ended with a frame, if an index file of that segment lists other events.
  private func contradiction(of file: SegmentEvidence, followedBy chain: UInt32) -> String? {
    let isOther = indexes.contains { index in
      file.contradicting.contains(index.path)
        && index.header.segments.contains { $0.baseOffset == file.baseOffset && $0.chain == chain }
    }
    return isOther ? "an index file of the segment that it follows lists other events than \(file.name) has" : nil
  }

  /// The earlier file has all its events, but its last frame is not the one that the later file names.
  private func withoutLastFrames(_ earlier: SegmentEvidence, before header: SegmentHeader) -> Link {
    let indexed = indexes.flatMap(\.header.segments).filter { $0.baseOffset == earlier.baseOffset }
    if indexed.contains(where: { $0.chain == earlier.endChain }) {
      return .contradiction("the last frame of \(earlier.name) is not the one that it follows")
    }
    // An index file knows the lost frame.
    if indexed.contains(where: { $0.chain == header.chain && $0.endPosition > earlier.endPosition }) {
      return .possible
    }
    guard indexed.isEmpty || indexed.contains(where: { $0.endPosition > earlier.endPosition }) else {
      return .contradiction("the last frame of \(earlier.name) is not the one that it follows")
    }
    // The file may have lost whole sectors that held only frames with cursors.
    return earlier.endPosition % Self.sectorByteCount == 0 ? .possible : .doubtful
  }
}

extension SegmentEvidence {
  /// The file name of the segment that it holds, whatever the file's real name.
  var name: String { FileName.segment(baseOffset) }
}
