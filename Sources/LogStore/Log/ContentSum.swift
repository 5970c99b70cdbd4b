/// A sum over what an index lists, or should list, of a segment. The order doesn't matter. Equal content gives equal sums;
/// other content gives the same sum only by chance, once in 2¹²⁸.
struct ContentSum: Equatable, Sendable {
  private var first: UInt64 = 0
  private var second: UInt64 = 0

  mutating func add(_ section: IndexSection, key: UInt64, version: UInt64, position: UInt64) {
    let value = mixed(mixed(key &+ UInt64(section.rawValue + 1)) ^ version &* 0xC2B2_AE3D_27D4_EB4F) ^ position
    first &+= mixed(value)
    second &+= mixed(~value) &* 0x9FB2_1C65_1E98_DF25
  }

  init() {}

  /// The sum over what the index of a finished segment must list.
  init(_ index: ActiveIndex) {
    let input = index.state.withLock { $0.sealingInput() }
    for stream in input.streams {
      let key = IndexKey.stream(hash: stream.hash)
      var ordinal = Int(stream.lastOrdinal)
      var version = stream.firstVersion + UInt64(stream.count)
      for _ in 0..<stream.count {
        version -= 1
        add(.streams, key: key, version: version, position: UInt64(input.positions[ordinal]))
        ordinal = Int(input.previous[ordinal]) - 1
      }
    }
    let segment = index.segment
    for id in input.ids {
      add(.eventIDs, key: id.hash >> 16, version: 0, position: UInt64(input.positions[Int(id.ordinal)]))
    }
    for frame in IndexEncoding.listed(input.frames) {
      add(
        .frames, key: segment.baseOffset + UInt64(frame.relativeOffset), version: 0, position: UInt64(frame.position))
    }
  }
}

extension IndexFile {
  /// The sums over what the file lists, by segment.
  func contentSums() throws(Fault) -> [ContentSum] {
    var sums = [ContentSum](repeating: ContentSum(), count: segmentCount)
    for section in IndexSection.allCases {
      let cursor = try IndexCursor(
        self, section, keyOffset: section == .frames ? baseOffset : 0, segmentOffset: 0, shift: header.addressShift)
      while cursor.key != .max {
        var version = section == .streams ? cursor.firstVersion : 0
        for address in cursor.addresses {
          let listed = try split(address)
          sums[listed.segment].add(section, key: cursor.key, version: version, position: UInt64(listed.position))
          if section == .streams { version += 1 }
        }
        try cursor.advance()
      }
    }
    return sums
  }
}
