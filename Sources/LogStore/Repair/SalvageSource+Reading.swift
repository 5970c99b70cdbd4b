// Reading segments, also where the disk can't read all of them.

extension SalvageSource {
  /// The base offset of a file with a damaged header. Its frames tell, since their checksums cover the base offset: the one
  /// in the file's name, or that of another segment whose file was renamed; or, if nothing else tells of that segment, the
  /// offset that its first frame begins with. The majority decides, since some frames may be another segment's blocks. Costs
  /// at most four checksums for each position where a frame may begin.
  ///
  /// - Parameter candidates: base offsets of segments, ascending.
  func frameBase(_ path: String, _ named: UInt64?, _ candidates: [UInt64]) -> UInt64? {
    guard let bytes = try? disk.contents(path, limit: Self.frameSearchByteCount) else { return nil }
    return bytes.withUnsafeBytes { bytes in
      func byteCount(at position: Int, of base: UInt64) -> Int? {
        FrameHeader(in: bytes, at: position, checksumSeed: ChecksumSeed(storeID: store.storeID, baseOffset: base))?
          .byteCount
      }
      // Of a segment that only its own frames tell of.
      var unnamed: UInt64?
      func frame(at position: Int) -> (base: UInt64, byteCount: Int)? {
        if let named, let found = byteCount(at: position, of: named) { return (named, found) }
        let first = bytes.integer(at: position + FrameField.firstOffset, as: UInt64.self)
        // A frame's events are in the last segment that begins no later than they.
        let next = candidates.partitionPoint { $0 > first }
        if next > 0, let found = byteCount(at: position, of: candidates[next - 1]) {
          return (candidates[next - 1], found)
        }
        if let unnamed, let found = byteCount(at: position, of: unnamed) { return (unnamed, found) }
        guard first < SegmentHeader.baseOffsetLimit, let found = byteCount(at: position, of: first) else { return nil }
        unnamed = first
        return (first, found)
      }
      var counts: [UInt64: Int] = [:]
      var position = SegmentHeader.byteCount
      while position <= bytes.count - FrameHeader.byteCount {
        if let found = frame(at: position) {
          counts[found.base, default: 0] += 1
          position += found.byteCount
        } else {
          position += 8
        }
      }
      return counts.max { ($0.value, $0.key == named ? 1 : 0) < ($1.value, $1.key == named ? 1 : 0) }?.key
    }
  }

  /// How much of a file with a damaged header is searched to find out what it is.
  private static let frameSearchByteCount = 8 << 20

  /// Consecutive pages that the disk can't read.
  struct UnreadableRange {
    var range: Range<Int>
    var damage: Damage
  }

  /// A part's bytes as far as the disk can read them, with zeros for the rest.
  func load(_ part: Part) throws(LogStoreError) -> (segment: Segment, unreadable: [UnreadableRange]) {
    let file = try disk.open(part.path, .read)
    let most = part.header?.fileByteCount ?? UInt64(UInt32.max)
    let byteCount = Int(min(try file.byteCount(), most))
    let header =
      part.header
      ?? SegmentHeader(
        storeID: store.storeID, baseOffset: part.baseOffset, previousBaseOffset: SegmentHeader.noPrevious,
        fileByteCount: UInt64(byteCount), createdMicroseconds: store.createdMicroseconds, chain: 0)
    do throws(LogStoreError) {
      return (Segment(path: part.path, header: header, mapping: try map(file, byteCount: byteCount)), [])
    } catch .unreadable {
      return try loadAround(file, part, header, byteCount)
    }
  }

  /// Throws if the disk can't read all of it.
  func map(_ file: any File, byteCount: Int) throws(LogStoreError) -> Mapping {
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: BackupRun.pieceByteCount, alignment: 4096)
    defer { piece.deallocate() }
    var position = 0
    while position < byteCount {
      let count = try file.read(into: piece, at: UInt64(position))
      // The file became shorter meanwhile.
      if count == 0 { break }
      position += count
    }
    return try file.map(byteCount: min(position, byteCount))
  }

  private func loadAround(
    _ file: any File, _ part: Part, _ header: SegmentHeader, _ byteCount: Int
  ) throws(LogStoreError) -> (segment: Segment, unreadable: [UnreadableRange]) {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(byteCount, 1), alignment: 4096)
    let mapping = Mapping(bytes: UnsafeRawBufferPointer(rebasing: memory[..<byteCount])) { _ in memory.deallocate() }
    var unreadable: [UnreadableRange] = []
    for position in stride(from: 0, to: byteCount, by: 4096) {
      let page = UnsafeMutableRawBufferPointer(rebasing: memory[position..<min(position + 4096, byteCount)])
      page.initializeMemory(as: UInt8.self, repeating: 0)
      do throws(LogStoreError) {
        _ = try file.read(into: page, at: UInt64(position))
      } catch .unreadable(let damage) {
        page.initializeMemory(as: UInt8.self, repeating: 0)
        let end = position + page.count
        if let last = unreadable.last, last.range.upperBound == position {
          unreadable[unreadable.count - 1].range = last.range.lowerBound..<end
        } else {
          unreadable.append(
            UnreadableRange(
              range: position..<end,
              damage: Damage(file: part.path, position: UInt64(position), reason: damage.reason)))
        }
      }
    }
    return (Segment(path: part.path, header: header, mapping: mapping), unreadable)
  }
}
