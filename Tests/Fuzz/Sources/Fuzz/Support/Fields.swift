@testable import LogStore

/// Where the fields of a sound file are (docs/FORMAT.md), so that an input can change one instead of a byte somewhere.
enum Fields {
  typealias Field = (position: Int, byteCount: Int)

  static func of(_ name: String, _ bytes: [UInt8]) -> [Field] {
    if name.hasSuffix(".log") { return segment(bytes) }
    if name.hasSuffix(".idx") { return index(bytes) }
    switch name {
    case FileName.store: return [(0, 8), (8, 4), (12, 4), (16, 8), (24, 8), (32, 8), (60, 4)]
    case FileName.clean: return [(8, 4), (12, 4), (16, 8), (32, 8), (40, 8), (48, 8), (56, 4), (60, 4)]
    case FileName.tail: return [(0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4)]
    case BackupFileName.manifest: return manifest(bytes)
    default: return []
    }
  }

  private static func segment(_ bytes: [UInt8]) -> [Field] {
    // The base offset several times, since it is one among hundreds and the most that others are counted from.
    var found: [Field] = [(8, 4), (12, 4), (16, 8), (32, 8), (32, 8), (40, 8), (48, 8), (56, 8), (64, 4), (4092, 4)]
    bytes.withUnsafeBytes { bytes in
      var position = SegmentHeader.byteCount
      while position + FrameHeader.byteCount <= bytes.count {
        let end = position + Int(bytes.integer(at: position + 4, as: UInt32.self))
        if end == position { return }
        for field in [(0, 4), (4, 4), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4), (40, 4), (44, 4)] {
          found.append((position + field.0, field.1))
        }
        var record = position + FrameHeader.byteCount
        for _ in 0..<bytes.integer(at: position + 28, as: UInt32.self) {
          for field in [
            (0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 4), (16, 8), (24, 4), (28, 4), (32, 1), (40, 8),
          ] {
            found.append((record + field.0, field.1))
          }
          record += Int(bytes.integer(at: record + 4, as: UInt32.self))
        }
        position = end
      }
    }
    return found
  }

  private static func index(_ bytes: [UInt8]) -> [Field] {
    var found: [Field] = [(8, 4), (12, 4), (16, 8), (32, 8), (40, 8), (48, 8), (56, 8), (64, 4), (68, 4)]
    bytes.withUnsafeBytes { bytes in
      for number in 0..<Int(bytes.integer(at: 12, as: UInt32.self)) {
        let at = IndexLayout.headerByteCount + number * IndexLayout.segmentByteCount
        found += [(at, 8), (at + 8, 4), (at + 12, 4)]
      }
      for section in IndexSection.allCases {
        let at = IndexLayout.sectionsPosition + section.rawValue * IndexLayout.sectionByteCount
        found += [(at, 8), (at + 8, 8), (at + 16, 8), (at + 24, 4), (at + 28, 4)]
        var position = Int(bytes.integer(at: at, as: UInt64.self))
        let table = Int(bytes.integer(at: at + 8, as: UInt64.self))
        for number in 0..<Int(bytes.integer(at: at + 24, as: UInt32.self)) {
          found += [(position, 4), (position + 4, 2), (position + 6, 2)]
          found += [(8, 8), (16, 8), (24, 2), (26, 2), (28, 2), (30, 2)].map { (position + $0.0, $0.1) }
          let stored = Int(bytes.integer(at: position + 4, as: UInt16.self))
          // All bytes of the columns, one by one.
          for column in 24..<max(stored, 24) { found.append((position + 8 + column, 1)) }
          found += [(table + 16 * number, 8), (table + 16 * number + 8, 8)]
          position += IndexLayout.blockHeadByteCount + stored
        }
        let filter = Int(bytes.integer(at: at + 16, as: UInt64.self))
        for line in 0..<Int(bytes.integer(at: at + 28, as: UInt32.self)) {
          found += [(0, 8), (20, 8), (44, 8), (52, 4), (56, 4), (60, 4)].map { (filter + 64 * line + $0.0, $0.1) }
        }
      }
    }
    return found
  }

  static func manifest(_ bytes: [UInt8]) -> [Field] {
    var found: [Field] = [(8, 4), (12, 4), (16, 8), (32, 8), (40, 8), (48, 8)]
    for at in stride(from: BackupManifest.headByteCount, to: bytes.count - 4, by: BackupPart.byteCount) {
      found += [(at, 8), (at + 8, 8), (at + 16, 8), (at + 24, 4), (at + 28, 4)]
    }
    return found
  }
}
