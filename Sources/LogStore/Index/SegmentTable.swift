import CLinux

/// The records of one segment by stream, event id and offset: the content of an ``ActiveIndex``, which locks it.
///
/// Two open-addressing tables with linear probing over dense arrays (D. E. Knuth, TAOCP 3, 6.4): a lookup touches one cache
/// line of the table, one of the array, and one of the segment to compare the name. The keys are hashes already, so nothing
/// is hashed again. Only the arrays' own doubling allocates memory: keep it so.
struct SegmentTable: Sendable {
  /// A stream's events in the segment.
  struct Head: Sendable {
    var hash: UInt64
    /// The version of the stream's first event in the segment.
    var firstVersion: UInt64
    /// The number of the stream's events in the segment; at least 1.
    var count: UInt32
    /// The position of the record of the stream's first event, which has the stream's name.
    var firstPosition: UInt32
    /// The position of the stream's name in `copiedNames`; nil if the name is too long for that.
    var nameStart: UInt32?
    /// Events are numbered by their order in the segment.
    var firstOrdinal: UInt32
    var lastOrdinal: UInt32

    var lastVersion: UInt64 { firstVersion + UInt64(count) - 1 }
  }

  /// By ordinal: the position of the event's record, and the ordinal + 1 of the stream's event before it (0: none).
  var positions: [UInt32] = []
  private(set) var previous: [UInt32] = []
  /// In the order of the streams' first events.
  private(set) var heads: [Head] = []
  /// Stored event ids: the hash of each, the event's ordinal, and the index + 1 of the entry before it with the same hash
  /// (0: none). The hash is all that an index file needs, so the file can be written even if the records can't be read any
  /// more.
  private(set) var ids: [(key: UInt64, ordinal: UInt32, before: UInt32)] = []
  /// Frames with events: the relative offset of the first event, and the frame's position.
  var frames: [(relativeOffset: UInt32, position: UInt32)] = []
  /// The number of events that readers may see.
  var durableCount: UInt32 = 0

  /// Names up to this length are copied here, and compared without touching the segment, whose pages are many and far
  /// apart.
  static let copiedNameByteCountMax = 48
  /// The copied names, each behind a byte with its length.
  private var copiedNames: [UInt8] = []
  private var streamSlots = SlotTable()
  private var idSlots = SlotTable()

  /// The stream's index in ``heads``; nil if it has no event in the segment.
  ///
  /// - Parameter bound: ignores streams whose first event is at or behind it, and does not read their records.
  func find(
    _ hash: UInt64, _ name: UnsafeRawBufferPointer, _ names: RecordNames, below bound: UInt32 = .max
  ) -> Int? {
    streamSlots.find(hash) { index in
      let head = heads[index]
      guard head.hash == hash, head.firstOrdinal < bound else { return false }
      guard let start = head.nameStart else { return equal(name, names.name(at: Int(head.firstPosition))) }
      return copiedNames.withUnsafeBytes { copied in
        Int(copied[Int(start)]) == name.count && equal(name, copied.part(Int(start) + 1, name.count))
      }
    }
  }

  /// Prefetches the memory that finding these streams will need, for all of them at once: finding them one by one would
  /// wait for each.
  func prefetch(count: Int, hash: (Int) -> UInt64) {
    if heads.isEmpty { return }
    for stream in 0..<count { streamSlots.prefetch(hash(stream)) }
    heads.withUnsafeBufferPointer { heads in
      for stream in 0..<count {
        guard let index = streamSlots.home(hash(stream)), let start = heads.baseAddress else { continue }
        // Proof: the table holds indexes of `heads`.
        clinux_prefetch(start + index)
      }
    }
  }

  /// Adds the segment's next event.
  ///
  /// - Parameter stream: the index of its stream in ``heads``, as ``find(_:_:_:below:)`` returned it; set if it was nil.
  /// - Parameter name: the stream's name, used only if `stream` was nil.
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
          hash: hash, firstVersion: version, count: 1, firstPosition: position, nameStart: copyName(name),
          firstOrdinal: ordinal, lastOrdinal: ordinal))
      streamSlots.add(heads.count - 1, hash) { heads[$0].hash }
    }
    if let idKey {
      // Chained, so that many events with one id can't slow the table down.
      let before = idSlots.replace(idKey, by: ids.count) { ids[$0].key == idKey }
      ids.append((idKey, ordinal, UInt32((before ?? -1) + 1)))
      if before == nil { idSlots.add(ids.count - 1, idKey) { ids[$0].key } }
    }
  }

  private mutating func copyName(_ name: UnsafeRawBufferPointer) -> UInt32? {
    guard name.count <= Self.copiedNameByteCountMax else { return nil }
    let start = UInt32(copiedNames.count)
    copiedNames.append(UInt8(name.count))
    copiedNames.append(contentsOf: name)
    return start
  }

  /// Visits the events whose id may have this hash.
  func forEachOrdinal(withIDKey key: UInt64, _ visit: (UInt32) -> Void) {
    var next = idSlots.find(key) { ids[$0].key == key }
    while let index = next {
      visit(ids[index].ordinal)
      next = ids[index].before == 0 ? nil : Int(ids[index].before) - 1
    }
  }
}

/// Finds a record's name by the record's position: in the mapped segment, or, before the record is written, in the frame
/// that is being built. Every position in a table was checked, or written by this process.
struct RecordNames {
  private let mapped: UnsafeRawBufferPointer
  private let frame: UnsafeRawBufferPointer
  private let frameStart: Int

  init(mapped: UnsafeRawBufferPointer) {
    self.init(mapped: mapped, frame: UnsafeRawBufferPointer(start: nil, count: 0), at: .max)
  }

  /// - Parameter position: the frame's future position in the segment.
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
    return Record.name(in: bytes, at: start)
  }
}

/// The slots of an open-addressing table. Each holds the index + 1 of an element that is stored elsewhere. At most half of
/// them are taken.
private struct SlotTable: Sendable {
  /// Random, so that nobody can choose keys that collide.
  private static let seed = UInt64.random(in: .min ... .max)

  private var slots: [UInt32] = []
  private var count = 0
  /// A hash shifted right by this many bits is the number of a slot.
  private var shift: UInt64 = 64

  /// The first index under a hash for which `isIt` returns true.
  @inline(__always)
  func find(_ hash: UInt64, where isIt: (Int) -> Bool) -> Int? {
    slot(of: hash, where: isIt).map { Int(slots[$0]) - 1 }
  }

  func prefetch(_ hash: UInt64) {
    slots.withUnsafeBufferPointer { slots in
      // Proof: a home is the number of a slot, and a prefetch touches nothing.
      if let start = slots.baseAddress { clinux_prefetch(start + home(of: hash)) }
    }
  }

  /// The index in a hash's home slot.
  func home(_ hash: UInt64) -> Int? {
    let slot = slots[home(of: hash)]
    return slot == 0 ? nil : Int(slot) - 1
  }

  /// Replaces the index of an element that is in the table, and returns the old one.
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
    // Terminates: half of the slots are free.
    while slots[slot] != 0 {
      if isIt(Int(slots[slot]) - 1) { return slot }
      slot = (slot + 1) & (slots.count - 1)
    }
    return nil
  }

  /// Multiplicative hashing (D. E. Knuth, TAOCP 3, 6.4) of a key that the seed has scrambled.
  @inline(__always)
  private func home(of hash: UInt64) -> Int {
    Int(truncatingIfNeeded: ((hash ^ Self.seed) &* 0x9E37_79B9_7F4A_7C15) >> shift)
  }

  /// - Parameter hashOf: returns the hash of any index that was added.
  @inline(__always)
  mutating func add(_ index: Int, _ hash: UInt64, hashOf: (Int) -> UInt64) {
    count += 1
    if count * 2 > slots.count { grow(hashOf) }
    insert(index, hash)
  }

  private mutating func grow(_ hashOf: (Int) -> UInt64) {
    let known = slots
    slots = [UInt32](repeating: 0, count: max(64, known.count * 2))
    shift = UInt64(64 - slots.count.trailingZeroBitCount)
    for slot in known where slot != 0 { insert(Int(slot) - 1, hashOf(Int(slot) - 1)) }
  }

  @inline(__always)
  private mutating func insert(_ index: Int, _ hash: UInt64) {
    var slot = home(of: hash)
    while slots[slot] != 0 { slot = (slot + 1) & (slots.count - 1) }
    slots[slot] = UInt32(index) + 1
  }
}
