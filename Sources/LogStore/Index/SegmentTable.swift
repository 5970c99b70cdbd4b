import CLinux

/// Where the records of one segment are, by stream, event id and offset: the content of an ``ActiveIndex``, which locks it.
///
/// Two open-addressing tables with linear probing over dense arrays (D. E. Knuth, TAOCP 3, 6.4): a look-up costs one
/// cache line of the table and one of the array, and one of the segment to compare the name. The keys are hashes already,
/// so none is made. No allocation per event beyond the arrays' own doubling: keep it so.
struct SegmentTable: Sendable {
  /// A stream's events in the segment.
  struct Head: Sendable {
    var hash: UInt64
    /// Of its first event in this segment.
    var firstVersion: UInt64
    /// Events in this segment; at least 1.
    var count: UInt32
    /// Where the record of its first event is, which names the stream.
    var firstPosition: UInt32
    /// Where its name is among the names kept; nil if it is too long for that.
    var nameStart: UInt32?
    /// Events are numbered by their order in the segment.
    var firstOrdinal: UInt32
    var lastOrdinal: UInt32

    var lastVersion: UInt64 { firstVersion + UInt64(count) - 1 }
  }

  /// By ordinal: where the event's record is, and the ordinal + 1 of the stream's event before it (0: none).
  var positions: [UInt32] = []
  private(set) var previous: [UInt32] = []
  /// In the order in which the streams came.
  private(set) var heads: [Head] = []
  /// Stored event ids: the hash of each, the event's ordinal, and the index + 1 of the one before it with the same hash
  /// (0: none). The hash is all that an index file needs, so a file can be made though the records can't be read any more.
  private(set) var ids: [(key: UInt64, ordinal: UInt32, before: UInt32)] = []
  /// Frames with events: relative offset of the first, position.
  var frames: [(relativeOffset: UInt32, position: UInt32)] = []
  /// Events that readers may see.
  var durableCount: UInt32 = 0

  /// A name that is kept here is compared without going to the segment, whose pages are many and far apart.
  static let keptNameByteCount = 48
  /// Names kept, each behind a byte with its length.
  private var keptNames: [UInt8] = []
  private var streamSlots = SlotTable()
  private var idSlots = SlotTable()

  /// The stream's place in ``heads``; nil if it has no event in the segment.
  ///
  /// - Parameter bound: streams whose first event is at or behind it don't count, and their records are not read.
  func find(
    _ hash: UInt64, _ name: UnsafeRawBufferPointer, _ names: RecordNames, below bound: UInt32 = .max
  ) -> Int? {
    streamSlots.find(hash) { index in
      let head = heads[index]
      guard head.hash == hash, head.firstOrdinal < bound else { return false }
      guard let start = head.nameStart else { return equal(name, names.name(at: Int(head.firstPosition))) }
      return keptNames.withUnsafeBytes { kept in
        Int(kept[Int(start)]) == name.count && equal(name, kept.part(Int(start) + 1, name.count))
      }
    }
  }

  /// Asks for the memory that looking up so many streams will need, for all at once, where one after the other would
  /// wait for each.
  func prefetch(count: Int, hash: (Int) -> UInt64) {
    if heads.isEmpty { return }
    for stream in 0..<count { streamSlots.prefetch(hash(stream)) }
    heads.withUnsafeBufferPointer { heads in
      for stream in 0..<count {
        guard let index = streamSlots.home(hash(stream)), let start = heads.baseAddress else { continue }
        // Proof: the table holds indexes of heads.
        clinux_prefetch(start + index)
      }
    }
  }

  /// Adds the segment's next event.
  ///
  /// - Parameter stream: its stream's place in ``heads``, as ``find(_:_:_:below:)`` gave it; set if it was nil.
  /// - Parameter name: the stream's, only looked at if that was nil.
  mutating func add(
    position: UInt32, to stream: inout Int?, hash: UInt64, name: UnsafeRawBufferPointer, version: UInt64, idKey: UInt64?
  ) {
    let ordinal = UInt32(positions.count)
    positions.append(position)
    if let known = stream {
      previous.append(heads[known].lastOrdinal + 1)
      heads[known].lastOrdinal = ordinal
      heads[known].count += 1
    } else {
      previous.append(0)
      stream = heads.count
      heads.append(
        Head(
          hash: hash, firstVersion: version, count: 1, firstPosition: position, nameStart: keep(name),
          firstOrdinal: ordinal, lastOrdinal: ordinal))
      streamSlots.add(heads.count - 1, hash) { heads[$0].hash }
    }
    if let idKey {
      // Chained, so that many events with one id can't make the table slow.
      let before = idSlots.replace(idKey, by: ids.count) { ids[$0].key == idKey }
      ids.append((idKey, ordinal, UInt32((before ?? -1) + 1)))
      if before == nil { idSlots.add(ids.count - 1, idKey) { ids[$0].key } }
    }
  }

  private mutating func keep(_ name: UnsafeRawBufferPointer) -> UInt32? {
    guard name.count <= Self.keptNameByteCount else { return nil }
    let start = UInt32(keptNames.count)
    keptNames.append(UInt8(name.count))
    keptNames.append(contentsOf: name)
    return start
  }

  /// Visits the events that may have an id with this hash.
  func forEachOrdinal(withIDKey key: UInt64, _ visit: (UInt32) -> Void) {
    var next = idSlots.find(key) { ids[$0].key == key }
    while let index = next {
      visit(ids[index].ordinal)
      next = ids[index].before == 0 ? nil : Int(ids[index].before) - 1
    }
  }
}

/// Finds a record's name by the record's position: in the mapped segment, or, where the segment is not written yet, in
/// the frame that is being built. Every position was checked, or made by this process, before it got into a table.
struct RecordNames {
  private let mapped: UnsafeRawBufferPointer
  private let frame: UnsafeRawBufferPointer
  private let frameStart: Int

  init(mapped: UnsafeRawBufferPointer) {
    self.init(mapped: mapped, frame: UnsafeRawBufferPointer(start: nil, count: 0), at: .max)
  }

  /// - Parameter position: where the frame is to be in the segment.
  init(mapped: UnsafeRawBufferPointer, frame: UnsafeRawBufferPointer, at position: Int) {
    self.mapped = mapped
    self.frame = frame
    frameStart = position
  }

  @inline(__always)
  func name(at position: Int) -> UnsafeRawBufferPointer {
    let isWritten = position < frameStart
    let bytes = isWritten ? mapped : frame
    let start = isWritten ? position : position - frameStart
    let hasID = bytes[start + 9] & Record.idFlag != 0
    return bytes.part(start + Record.byteCount + (hasID ? Record.idByteCount : 0), Int(bytes[start + 10]))
  }
}

/// The slots of an open-addressing table: each holds the index, plus one, of an element that is kept elsewhere. At most
/// half of them are taken.
private struct SlotTable: Sendable {
  /// So that nobody can choose keys that fall together.
  private static let seed = UInt64.random(in: .min ... .max)

  private var slots: [UInt32] = []
  private var count = 0
  /// The number of bits that a hash is shifted to the right to be a slot's number.
  private var shift: UInt64 = 64

  /// The first index under a hash that `isIt` says yes to.
  @inline(__always)
  func find(_ hash: UInt64, where isIt: (Int) -> Bool) -> Int? {
    slot(of: hash, where: isIt).map { Int(slots[$0]) - 1 }
  }

  func prefetch(_ hash: UInt64) {
    slots.withUnsafeBufferPointer { slots in
      // Proof: a home is the number of a slot, and asking for memory touches nothing.
      if let start = slots.baseAddress { clinux_prefetch(start + home(of: hash)) }
    }
  }

  /// The index in the first slot where a hash can be.
  func home(_ hash: UInt64) -> Int? {
    let slot = slots[home(of: hash)]
    return slot == 0 ? nil : Int(slot) - 1
  }

  /// Puts another index in the place of one that is there; returns that.
  mutating func replace(_ hash: UInt64, by index: Int, where isIt: (Int) -> Bool) -> Int? {
    guard let slot = slot(of: hash, where: isIt) else { return nil }
    let before = Int(slots[slot]) - 1
    slots[slot] = UInt32(index) + 1
    return before
  }

  @inline(__always)
  private func slot(of hash: UInt64, where isIt: (Int) -> Bool) -> Int? {
    if slots.isEmpty { return nil }
    var slot = home(of: hash)
    // Ends: half of the slots are free.
    while slots[slot] != 0 {
      if isIt(Int(slots[slot]) - 1) { return slot }
      slot = (slot + 1) & (slots.count - 1)
    }
    return nil
  }

  /// Multiplicative hashing (D. E. Knuth, TAOCP 3, 6.4), of a key that was scattered by the seed.
  @inline(__always)
  private func home(of hash: UInt64) -> Int {
    Int(truncatingIfNeeded: ((hash ^ Self.seed) &* 0x9E37_79B9_7F4A_7C15) >> shift)
  }

  /// - Parameter hashOf: the hash of any index that was added.
  @inline(__always)
  mutating func add(_ index: Int, _ hash: UInt64, hashOf: (Int) -> UInt64) {
    count += 1
    if count * 2 > slots.count { grow(hashOf) }
    place(index, hash)
  }

  private mutating func grow(_ hashOf: (Int) -> UInt64) {
    let known = slots
    slots = [UInt32](repeating: 0, count: max(64, known.count * 2))
    shift = UInt64(64 - slots.count.trailingZeroBitCount)
    for slot in known where slot != 0 { place(Int(slot) - 1, hashOf(Int(slot) - 1)) }
  }

  @inline(__always)
  private mutating func place(_ index: Int, _ hash: UInt64) {
    var slot = home(of: hash)
    while slots[slot] != 0 { slot = (slot + 1) & (slots.count - 1) }
    slots[slot] = UInt32(index) + 1
  }
}
