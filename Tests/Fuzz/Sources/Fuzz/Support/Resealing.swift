@testable import LogStore

/// Makes the checksums of changed files right again, as far as their lengths can still be followed: so what is behind a
/// check is reached, as by somebody who means harm. Chain values too, if that is asked for.
enum Resealing {
  static func file(_ name: String, _ bytes: inout [UInt8]) {
    if name.hasSuffix(".log") {
      _ = segment(&bytes, chained: true)
    } else if name.hasSuffix(".idx") {
      index(&bytes)
    } else if name == FileName.store || name == FileName.clean {
      envelope(&bytes, byteCount: 64)
    } else if name == FileName.tail {
      tail(&bytes)
    } else if name == BackupFileName.manifest {
      envelope(&bytes, byteCount: bytes.count)
    }
  }

  /// Files with their check in the last four bytes.
  static func envelope(_ bytes: inout [UInt8], at start: Int = 0, byteCount: Int) {
    guard byteCount >= 4, bytes.count >= start + byteCount else { return }
    bytes.withUnsafeMutableBytes { bytes in
      bytes.set(
        checksum(UnsafeRawBufferPointer(bytes).part(start, byteCount - 4)), at: start + byteCount - 4)
    }
  }

  static func tail(_ bytes: inout [UInt8]) {
    guard bytes.count >= TailNotice.byteCount else { return }
    bytes.withUnsafeMutableBytes { $0.set(checksum(UnsafeRawBufferPointer($0).part(0, 36)), at: 36) }
  }

  /// - Returns: the header checksum of the last frame.
  static func segment(_ bytes: inout [UInt8], chained: Bool) -> UInt32 {
    envelope(&bytes, byteCount: SegmentHeader.byteCount)
    guard bytes.count > SegmentHeader.byteCount else { return 0 }
    return bytes.withUnsafeMutableBytes { bytes in
      let read = UnsafeRawBufferPointer(bytes)
      let checksumSeed = ChecksumSeed(
        storeID: StoreID(first: read.integer(at: 16), second: read.integer(at: 24)), baseOffset: read.integer(at: 32))
      var chain: UInt32 = read.integer(at: 64)
      var position = SegmentHeader.byteCount
      while position + FrameHeader.byteCount <= read.count {
        let byteCount = Int(read.integer(at: position + 4, as: UInt32.self))
        guard byteCount >= FrameHeader.byteCount, byteCount <= read.count - position else { break }
        records(bytes, frame: position..<position + byteCount, checksumSeed)
        if chained { bytes.set(chain, at: position + 36) }
        chain = checksumSeed.checksum(of: read.part(position + 4, FrameHeader.byteCount - 4), at: position)
        bytes.set(chain, at: position)
        position += byteCount
      }
      return chain
    }
  }

  private static func records(_ bytes: UnsafeMutableRawBufferPointer, frame: Range<Int>, _ checksumSeed: ChecksumSeed) {
    let read = UnsafeRawBufferPointer(bytes)
    var body = RunningChecksum()
    var position = frame.lowerBound + FrameHeader.byteCount
    var left = read.integer(at: frame.lowerBound + 28, as: UInt32.self)
    while left > 0, position + Record.byteCount <= frame.upperBound {
      let byteCount = Int(read.integer(at: position + 4, as: UInt32.self))
      guard byteCount >= Record.byteCount, byteCount <= frame.upperBound - position else { break }
      let sum = checksumSeed.checksum(of: read.part(position + 4, byteCount - 4), at: position)
      bytes.set(sum, at: position)
      body.add(sum)
      position += byteCount
      left -= 1
    }
    body.add(read.part(position, frame.upperBound - position))
    bytes.set(body.value, at: frame.lowerBound + 40)
  }

  static func index(_ bytes: inout [UInt8]) {
    guard bytes.count >= IndexLayout.headerByteCount else { return }
    bytes.withUnsafeMutableBytes { bytes in
      let read = UnsafeRawBufferPointer(bytes)
      let segments = Int(read.integer(at: 12, as: UInt32.self))
      let checked = IndexLayout.headerByteCount + segments * IndexLayout.segmentByteCount
      if segments <= 1 << 16, checked + 4 <= read.count { bytes.set(checksum(read.part(0, checked)), at: checked) }
      let checksumSeed = IndexChecksumSeed(
        storeID: StoreID(first: read.integer(at: 16), second: read.integer(at: 24)),
        baseOffset: read.integer(at: 32), endOffset: read.integer(at: 40))
      for section in IndexSection.allCases {
        let at = IndexLayout.sectionsPosition + section.rawValue * IndexLayout.sectionByteCount
        var position = Int(clamping: read.integer(at: at, as: UInt64.self))
        for _ in 0..<min(read.integer(at: at + 24, as: UInt32.self), 1 << 12) {
          guard position <= read.count - IndexLayout.blockHeadByteCount, position >= 0 else { break }
          let byteCount = IndexLayout.blockHeadByteCount + Int(read.integer(at: position + 4, as: UInt16.self))
          guard byteCount <= read.count - position else { break }
          bytes.set(
            checksumSeed.checksum(of: read.part(position + 4, byteCount - 4), kind: section.blockKind, at: position),
            at: position)
          position += byteCount
        }
        position = Int(clamping: read.integer(at: at + 16, as: UInt64.self))
        for _ in 0..<min(read.integer(at: at + 28, as: UInt32.self), 1 << 12) {
          guard position <= read.count - IndexFilter.lineByteCount, position >= 0 else { break }
          bytes.set(
            checksumSeed.checksum(
              of: read.part(position, IndexFilter.checkedByteCount), kind: section.lineKind, at: position),
            at: position + IndexFilter.checkedByteCount)
          position += IndexFilter.lineByteCount
        }
      }
    }
  }
}
