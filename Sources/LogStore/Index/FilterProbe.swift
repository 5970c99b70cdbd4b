import CLinux

/// A filter of an index file, ready for probes. Valid while its ``IndexFile`` is held.
///
/// Sendable although it holds a pointer: the pointer leads into a mapping that nothing writes.
struct FilterProbe: @unchecked Sendable {
  let lines: UnsafeRawPointer?
  let lineCount: Int
  let position: Int
  let kind: UInt8
  let checksumSeed: IndexChecksumSeed

  enum Outcome {
    case absent
    case maybe
    /// The filter line is damaged, so the answer is unknown.
    case damaged
  }

  /// Prefetches the line that ``probe(_:)`` will read.
  @inline(__always)
  func prefetch(_ key: UInt64) {
    guard let lines else { return }
    clinux_prefetch(lines + IndexFilter.line(key, lineCount: lineCount) &* IndexFilter.lineByteCount)
  }

  @inline(__always)
  func probe(_ key: UInt64) -> Outcome {
    guard let lines else { return .absent }
    let offset = IndexFilter.line(key, lineCount: lineCount) &* IndexFilter.lineByteCount
    // Proof: keys have 48 bits, so the line's number is less than the count, and the check of the header made sure that the
    // mapping has that many lines.
    let line = lines + offset
    if IndexFilter.mayContain(key, in: line.assumingMemoryBound(to: UInt8.self)) { return .maybe }
    let checked = UnsafeRawBufferPointer(start: line, count: IndexFilter.checkedByteCount)
    let checksum = UInt32(littleEndian: (line + IndexFilter.checkedByteCount).loadUnaligned(as: UInt32.self))
    return checksumSeed.checksum(of: checked, kind: kind, at: position &+ offset) == checksum ? .absent : .damaged
  }
}

// The filters of an index file.

extension IndexFile {
  /// A probe for a section's filter, which needs no call into this class.
  func filter(_ section: IndexSection) -> FilterProbe {
    let found = header.sections[section.rawValue]
    let start = found.lineCount == 0 ? nil : bytes.baseAddress.map { $0 + found.filterPosition }
    return FilterProbe(
      lines: start, lineCount: found.lineCount, position: found.filterPosition, kind: section.lineKind,
      checksumSeed: checksumSeed)
  }

  /// Reads the filter that every query of a stream probes into memory, since otherwise it would be read page by page.
  func keepStreamFilterReady() {
    let found = header.sections[IndexSection.streams.rawValue]
    mapping.keepReady(at: found.filterPosition, byteCount: found.lineCount * IndexFilter.lineByteCount)
  }

  /// Whether a filter line has the right checksum.
  func isSound(line: Int, _ section: IndexSection) -> Bool {
    let at = header.sections[section.rawValue].filterPosition + line * IndexFilter.lineByteCount
    return bytes.integer(at: at + IndexFilter.checkedByteCount, as: UInt32.self)
      == checksumSeed.checksum(of: bytes.part(at, IndexFilter.checkedByteCount), kind: section.lineKind, at: at)
  }

  /// The fault that the filter line of a key is damaged.
  func filterFault(_ section: IndexSection, key: UInt64) -> Fault {
    let found = header.sections[section.rawValue]
    return Fault(
      position: found.filterPosition + IndexFilter.line(key, lineCount: found.lineCount) * IndexFilter.lineByteCount,
      reason: "the checksum of a filter line of the index does not match")
  }
}
