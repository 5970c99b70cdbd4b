@testable import LogStore

/// Changes to files that are read out of an input: of a field, a bit, a sector or a page, of a file's length or place.
struct Edits {
  private(set) var files: [String: [UInt8]]
  /// Names of files that are not what they were, or gone.
  private(set) var touched: Set<String> = []

  private let names: [String]
  private let fields: [String: [Fields.Field]]

  init(_ files: [String: [UInt8]], names: [String], fields: [String: [Fields.Field]]) {
    self.files = files
    self.names = names
    self.fields = fields
  }

  /// - Parameter isWanted: which files may be changed.
  mutating func apply(_ input: inout InputReader, atMost limit: Int = 8, where isWanted: (String) -> Bool) {
    let names = names.filter(isWanted)
    guard !names.isEmpty else { return }
    for _ in 0..<limit {
      if input.isAtEnd { return }
      let operation = input.byte()
      let name = names[input.index(below: names.count)]
      if operation % 16 < 9, let fields = fields[name], !fields.isEmpty {
        change(name, fields[input.index(below: fields.count)], names, operation, &input)
      } else {
        changeBytes(name, names, operation, &input)
      }
    }
  }

  private mutating func change(
    _ name: String, _ field: Fields.Field, _ names: [String], _ operation: UInt8, _ input: inout InputReader
  ) {
    guard let bytes = files[name], field.position + field.byteCount <= bytes.count else { return }
    let present = (0..<field.byteCount).reduce(UInt64(0)) { $0 | UInt64(bytes[field.position + $1]) << UInt64(8 * $1) }
    let greatest = UInt64.max >> UInt64(64 - 8 * field.byteCount)
    let value: UInt64
    switch operation % 16 {
    case 0, 1, 2: value = input.number(bytes: field.byteCount)
    case 3, 4: value = present &+ UInt64(bitPattern: Int64(Int8(bitPattern: input.byte())))
    case 5: value = present ^ 1 << (UInt64(input.byte()) % UInt64(8 * field.byteCount))
    case 6:
      value = [0, 1, 2, greatest, greatest - 1, greatest >> 1, greatest >> 1 + 1, 48, 32, 4096][input.index(below: 10)]
    case 7:
      // What stands in another field, of the same kind as a rule.
      let otherName = names[input.index(below: names.count)]
      let others = fields[otherName] ?? []
      if others.isEmpty { return }
      let other = others[input.index(below: others.count)]
      let source = files[otherName] ?? []
      value = (0..<min(other.byteCount, max(0, source.count - other.position))).reduce(0) {
        $0 | UInt64(source[other.position + $1]) << UInt64(8 * $1)
      }
    default: value = present &* UInt64(input.byte()) >> 3
    }
    for index in 0..<field.byteCount {
      set(name, field.position + index, UInt8(truncatingIfNeeded: value >> UInt64(8 * index)))
    }
  }

  private mutating func changeBytes(
    _ name: String, _ names: [String], _ operation: UInt8, _ input: inout InputReader
  ) {
    guard let bytes = files[name] else { return }
    let position = input.index(below: bytes.count)
    switch operation % 16 {
    case 9:
      for (index, byte) in input.take(Int(input.byte() % 32)).enumerated() { set(name, position + index, byte) }
    case 10:
      let unit = operation & 16 == 0 ? 512 : 4096
      for index in 0..<unit { set(name, position / unit * unit + index, 0) }
    case 11:
      // A block of another position or file.
      let other = files[names[input.index(below: names.count)]] ?? []
      let from = input.index(below: other.count) & ~7
      let count = operation & 16 == 0 ? 512 : Int(input.byte()) * 8
      for index in 0..<count where from + index < other.count { set(name, position & ~7 + index, other[from + index]) }
    case 12: replace(name, operation & 16 == 0 ? Array(bytes.prefix(position)) : Array(bytes.prefix(position & ~4095)))
    case 13: replace(name, bytes + [UInt8](repeating: input.byte(), count: Int(input.number(bytes: 2)) % 8200))
    case 14:
      let other = names[input.index(below: names.count)]
      if operation & 16 == 0 {
        replace(name, files[other])
      } else {
        let bytes = files[other]
        replace(other, files[name])
        replace(name, bytes)
      }
    default: if operation & 16 == 0 { replace(name, nil) } else { rebase(name, to: input.number(bytes: 8)) }
    }
  }

  /// Gives a segment another base offset, in its name and in all that is counted from it.
  private mutating func rebase(_ name: String, to base: UInt64) {
    guard var bytes = files[name], let old = FileName.baseOffset(name, suffix: ".log") else { return }
    bytes.withUnsafeMutableBytes { bytes in
      let read = UnsafeRawBufferPointer(bytes)
      guard read.count >= SegmentHeader.byteCount else { return }
      bytes.set(base, at: 32)
      var position = SegmentHeader.byteCount
      while position + FrameHeader.byteCount <= read.count {
        let byteCount = Int(read.integer(at: position + 4, as: UInt32.self))
        guard byteCount >= FrameHeader.byteCount, byteCount <= read.count - position else { return }
        bytes.set(read.integer(at: position + 8, as: UInt64.self) &- old &+ base, at: position + 8)
        position += byteCount
      }
    }
    replace(name, nil)
    replace(FileName.segment(base), bytes)
  }

  private mutating func set(_ name: String, _ position: Int, _ byte: UInt8) {
    guard let count = files[name]?.count, position < count else { return }
    files[name]?[position] = byte
    touched.insert(name)
  }

  mutating func replace(_ name: String, _ bytes: [UInt8]?) {
    files[name] = bytes
    touched.insert(name)
  }

  /// Only what is really another now.
  mutating func settle(against sound: [String: [UInt8]]) {
    touched = touched.filter { files[$0] != sound[$0] }
  }

  mutating func reseal() {
    for name in touched.sorted() {
      guard var bytes = files[name] else { continue }
      Resealing.file(name, &bytes)
      files[name] = bytes
    }
  }

  /// With the untouched files shared, for reading alone.
  func disk(_ seed: Seed, onWait: (@Sendable () -> Bool)? = nil) -> MemoryDisk {
    var memory = seed.memory
    for name in touched { memory[name] = files[name].map(GuardedMemory.init) }
    return MemoryDisk(files: memory.withPaths(Seed.directory), directories: [Seed.directory], onWait: onWait)
  }

  /// With files of its own, to be written to.
  func writableDisk() -> MemoryDisk {
    MemoryDisk(files: files.mapValues(GuardedMemory.init).withPaths(Seed.directory), directories: [Seed.directory])
  }
}
