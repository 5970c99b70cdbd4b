import Foundation

/// What a power cut may leave of what real processes did to a directory, by the letter of POSIX and no kinder: of what was
/// not synced any sector of 512 bytes, any size and any name may be there as it was at any moment since the last sync, or
/// not at all, whatever the order in which they were changed.
///
/// It follows the log of the shim, record by record; at any of them a state can be made.
struct StrictDisk {
  static let sectorByteCount = 512

  /// A change of a file's bytes or of its size.
  private struct Change {
    /// The call, and when it had returned.
    var call: CallID
    var doneAt: Int?
    var position: Int
    var bytes: ArraySlice<UInt8>
    /// The file's size from then on; everything behind is zero.
    var cutTo: Int?
  }

  private enum NameChange {
    case set(String, Node)
    case removed(String)
    case renamed(String, to: String, Node)
  }

  private struct CallID: Hashable {
    var process: Int
    var number: Int
  }

  /// A file or a directory, whatever its name. As it is for sure after a power cut, and what has changed since.
  private final class Node {
    let isDirectory: Bool
    var durable: [UInt8] = []
    var changes: [Change] = []
    /// The size as the kernel shows it.
    var byteCount = 0
    var durableNames: [String: Node] = [:]
    var names: [String: Node] = [:]
    var nameChanges: [(call: CallID, doneAt: Int?, change: NameChange)] = []

    init(isDirectory: Bool) { self.isDirectory = isDirectory }
  }

  let root: String
  private let top: Node
  private var process = 0
  /// Records so far.
  private var now = 0
  private var open: [Int: Node] = [:]
  private var syncBegins: [CallID: Int] = [:]

  /// Begins with everything below a directory, all of it durable.
  init(root: String) throws {
    self.root = root
    top = try Self.load(root)
  }

  private static func load(_ path: String) throws -> Node {
    let node = Node(isDirectory: true)
    for name in try FileManager.default.contentsOfDirectory(atPath: path) {
      let child = path + "/" + name
      var isDirectory: ObjCBool = false
      _ = FileManager.default.fileExists(atPath: child, isDirectory: &isDirectory)
      if isDirectory.boolValue {
        node.names[name] = try load(child)
      } else {
        let file = Node(isDirectory: false)
        file.durable = Array(try Data(contentsOf: URL(fileURLWithPath: child)))
        file.byteCount = file.durable.count
        node.names[name] = file
      }
    }
    node.durableNames = node.names
    return node
  }

  // MARK: - Following the log

  /// The records that follow are another process's; what the one before had opened is closed.
  mutating func beginProcess() {
    process += 1
    open = [:]
    syncBegins = [:]
  }

  mutating func follow(_ record: ShimRecord) throws {
    now += 1
    let id = CallID(process: process, number: record.number)
    switch (record.call, record.phase) {
    case (_, .failed): break
    case ("open", .end) where record.result >= 0: try opened(record, id)
    case ("opendir", .end) where record.result >= 0: open[record.file] = node(record.path)
    case ("close", .begin): open[record.file] = nil
    case ("pwrite", .begin):
      add(Change(call: id, position: record.position, bytes: record.data), to: open[record.file])
    case ("ftruncate", .begin), ("fallocate", .begin):
      guard let file = open[record.file] else { break }
      let count = record.call == "ftruncate" ? record.position : max(file.byteCount, record.position)
      add(Change(call: id, position: count, bytes: [], cutTo: count), to: file)
    case ("pwrite", .end), ("ftruncate", .end), ("fallocate", .end): finish(record, id)
    case ("fsync", .begin), ("fdatasync", .begin): syncBegins[id] = now
    case ("fsync", .end), ("fdatasync", .end):
      guard let began = syncBegins.removeValue(forKey: id), record.result == 0 else { break }
      open[record.file].map { Self.settle($0, before: began) }
    case ("rename", .end) where record.result == 0: try renamed(record, id)
    case ("unlink", .end) where record.result == 0, ("rmdir", .end) where record.result == 0:
      try change(record.path, id) { directory, name in
        directory.names[name] = nil
        return .removed(name)
      }
    case ("mkdir", .end) where record.result == 0:
      try change(record.path, id) { directory, name in
        let made = Node(isDirectory: true)
        directory.names[name] = made
        return .set(name, made)
      }
    case ("mmap", .begin) where record.flags & UInt32(PROT_WRITE) != 0:
      throw HarnessError("\(record.path) is written through a mapping, which this model does not follow")
    case ("write", .begin) where !record.path.hasPrefix("<"):
      throw HarnessError("\(record.path) is written with write(2), which this model does not follow")
    default: break
    }
  }

  private func names(_ path: String) -> [Substring]? {
    guard path == root || path.hasPrefix(root + "/") else { return nil }
    return path.dropFirst(root.count).split(separator: "/")
  }

  private func node(_ path: String) -> Node? {
    names(path)?.reduce(top) { $0?.names[String($1)] }
  }

  private mutating func opened(_ record: ShimRecord, _ id: CallID) throws {
    guard names(record.path) != nil else { return }
    if let known = node(record.path) {
      open[record.file] = known
      if record.flags & UInt32(O_TRUNC) != 0, known.byteCount > 0 {
        add(Change(call: id, doneAt: now, position: 0, bytes: [], cutTo: 0), to: known)
      }
      return
    }
    let made = Node(isDirectory: false)
    open[record.file] = made
    try change(record.path, id) { directory, name in
      directory.names[name] = made
      return .set(name, made)
    }
  }

  private func change(_ path: String, _ id: CallID, _ body: (Node, String) throws -> NameChange) throws {
    guard let names = names(path), let last = names.last,
      let directory = node(root + names.dropLast().map { "/" + $0 }.joined())
    else { throw HarnessError("\(path) is in no directory that is known") }
    directory.nameChanges.append((id, now, try body(directory, String(last))))
  }

  private func renamed(_ record: ShimRecord, _ id: CallID) throws {
    let to = (record.secondPath as NSString).lastPathComponent
    guard
      (record.path as NSString).deletingLastPathComponent == (record.secondPath as NSString).deletingLastPathComponent
    else { throw HarnessError("\(record.path) is renamed into another directory, which this model does not follow") }
    try change(record.path, id) { directory, name in
      guard let moved = directory.names.removeValue(forKey: name) else {
        throw HarnessError("\(record.path) is unknown")
      }
      directory.names[to] = moved
      return .renamed(name, to: to, moved)
    }
  }

  private func add(_ change: Change, to file: Node?) {
    guard let file else { return }
    file.changes.append(change)
    file.byteCount = change.cutTo ?? max(file.byteCount, change.position + change.bytes.count)
  }

  private func finish(_ record: ShimRecord, _ id: CallID) {
    guard let file = open[record.file], let index = file.changes.lastIndex(where: { $0.call == id }) else { return }
    if record.result < 0 {
      file.changes.remove(at: index)
    } else {
      file.changes[index].doneAt = now
      if record.call == "pwrite" { file.changes[index].bytes = file.changes[index].bytes.prefix(record.result) }
    }
    file.byteCount = file.changes.reduce(file.durable.count) { $1.cutTo ?? max($0, $1.position + $1.bytes.count) }
  }

  /// A sync has succeeded: what was done before it began is there for sure.
  private static func settle(_ node: Node, before moment: Int) {
    var left: [Change] = []
    for change in node.changes {
      if let done = change.doneAt, done < moment {
        apply(change, to: &node.durable)
      } else {
        left.append(change)
      }
    }
    node.changes = left
    node.nameChanges.removeAll { _, done, change in
      guard let done, done < moment else { return false }
      apply(change, to: &node.durableNames)
      return true
    }
  }

  private static func apply(_ change: Change, to bytes: inout [UInt8]) {
    if let count = change.cutTo {
      bytes = Array(bytes.prefix(count)) + [UInt8](repeating: 0, count: max(0, count - bytes.count))
      return
    }
    let end = change.position + change.bytes.count
    if bytes.count < end { bytes += [UInt8](repeating: 0, count: end - bytes.count) }
    bytes.replaceSubrange(change.position..<end, with: change.bytes)
  }

  private static func apply(_ change: NameChange, to names: inout [String: Node]) {
    switch change {
    case .set(let name, let node): names[name] = node
    case .removed(let name): names[name] = nil
    case .renamed(let name, let to, let node):
      names[name] = nil
      names[to] = node
    }
  }

  // MARK: - States

  /// How much of what is not synced survives.
  enum Survival: CaseIterable {
    case nothing, everything, anything, little, most

    fileprivate func survives(using random: inout SeededGenerator) -> Bool {
      switch self {
      case .nothing: false
      case .everything: true
      case .anything: Bool.random(using: &random)
      case .little: Int.random(in: 0..<10, using: &random) == 0
      case .most: Int.random(in: 0..<10, using: &random) != 0
      }
    }

    /// Of a row of versions, 0 the durable one.
    fileprivate func version(of count: Int, using random: inout SeededGenerator) -> Int {
      guard survives(using: &random) else { return 0 }
      return self == .everything || Bool.random(using: &random) ? count : Int.random(in: 0...count, using: &random)
    }
  }

  /// Makes one of the states that a power cut may leave now, as a directory.
  func makeState(at path: String, using random: inout SeededGenerator) throws {
    try make(top, at: path, using: &random)
  }

  /// Makes what the kernel shows now.
  func makePresent(at path: String) throws {
    var random = SeededGenerator(seed: 0)
    try make(top, at: path, always: .everything, using: &random)
  }

  private func make(_ node: Node, at path: String, always: Survival? = nil, using random: inout SeededGenerator) throws
  {
    // Chosen for each file, so that one may be ahead of another as far as can be.
    let survival = always ?? Survival.allCases.randomElement(using: &random) ?? .anything
    guard node.isDirectory else {
      try Data(content(of: node, survival, using: &random)).write(to: URL(fileURLWithPath: path))
      return
    }
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    var names = node.durableNames
    for (_, _, change) in node.nameChanges where survival.survives(using: &random) {
      if case .renamed(_, let to, let node) = change, always == nil, Int.random(in: 0..<4, using: &random) == 0 {
        // A rename is two changes of names; the old one may still be there.
        names[to] = node
      } else {
        Self.apply(change, to: &names)
      }
    }
    for (name, child) in names.sorted(by: { $0.key < $1.key }) {
      try make(child, at: path + "/" + name, always: always, using: &random)
    }
  }

  private func content(of file: Node, _ survival: Survival, using random: inout SeededGenerator) -> [UInt8] {
    guard !file.changes.isEmpty else { return file.durable }
    var sizes = [file.durable.count]
    var versions: [Int: [Int]] = [:]
    for (index, change) in file.changes.enumerated() {
      let size = sizes[sizes.count - 1]
      let next = change.cutTo ?? max(size, change.position + change.bytes.count)
      // A write that makes the file longer may have come as far as any of its sectors.
      if change.cutTo == nil, next > size + Self.sectorByteCount {
        sizes.append(Int.random(in: size...next, using: &random) / Self.sectorByteCount * Self.sectorByteCount)
      }
      if next != size { sizes.append(next) }
      let touched =
        change.cutTo.map { min($0, size)..<max($0, size) } ?? change.position..<(change.position + change.bytes.count)
      guard !touched.isEmpty else { continue }
      for sector in touched.lowerBound / Self.sectorByteCount...(touched.upperBound - 1) / Self.sectorByteCount {
        versions[sector, default: []].append(index)
      }
    }
    let count = sizes[survival.version(of: sizes.count - 1, using: &random)]
    let end = max(sizes.max() ?? 0, file.durable.count)
    var bytes = file.durable + [UInt8](repeating: 0, count: end - file.durable.count)
    // In order, so that a seed gives the same state again.
    for (sector, indices) in versions.sorted(by: { $0.key < $1.key }) {
      let range = sector * Self.sectorByteCount..<min((sector + 1) * Self.sectorByteCount, end)
      for index in indices.prefix(survival.version(of: indices.count, using: &random)) {
        let change = file.changes[index]
        if let cut = change.cutTo {
          for at in range where at >= cut { bytes[at] = 0 }
        } else {
          let part = range.clamped(to: change.position..<(change.position + change.bytes.count))
          let from = change.bytes.startIndex + part.lowerBound - change.position
          bytes.replaceSubrange(part, with: change.bytes[from..<from + part.count])
        }
      }
    }
    return Array(bytes.prefix(count))
  }
}
