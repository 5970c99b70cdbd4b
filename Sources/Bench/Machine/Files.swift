import Glibc

/// All of a small file, such as those in /proc; nil if it can't be read.
func contents(_ path: String) -> String? {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = read(descriptor, &chunk, chunk.count)
    guard count > 0 else { return count == 0 ? String(decoding: bytes, as: UTF8.self) : nil }
    bytes.append(contentsOf: chunk[..<count])
  }
}

/// Names in a directory, in no order; none if it can't be read.
func names(in path: String) -> [String] {
  guard let directory = opendir(path) else { return [] }
  defer { closedir(directory) }
  var names: [String] = []
  while let entry = readdir(directory) {
    let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    if name != ".", name != ".." { names.append(name) }
  }
  return names
}

/// Bytes of a file, and what the disk gave it for them; nil if it isn't there.
func size(of path: String) -> (bytes: Int, allocated: Int)? {
  var status = stat()
  guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
  return (Int(status.st_size), Int(status.st_blocks) * 512)
}

/// What a directory of files takes on disk, in bytes.
func allocatedBytes(in directory: String) -> Int {
  names(in: directory).reduce(0) { $0 + (size(of: "\(directory)/\($1)")?.allocated ?? 0) }
}

/// A store's size on disk. Preallocated space of the last segment is counted separately: it is the same for a store of any
/// size.
struct StoreSize: Sendable {
  var usedBytes: Int
  var aheadBytes: Int

  /// The size of a closed store: the file `clean` says where its log ends (docs/FORMAT.md).
  init(closed directory: String) throws {
    guard let clean = Array(named: "\(directory)/clean", count: 64) else {
      throw BenchError("\(directory) was not closed, so it can't be told how much of it is used")
    }
    let base = Self.number(clean, at: 40)
    let end = Int(Self.number(clean, at: 48))
    let digits = String(base)
    let last = String(repeating: "0", count: 20 - digits.count) + digits + ".log"
    guard let size = size(of: "\(directory)/\(last)") else { throw BenchError("\(directory)/\(last) is missing") }
    aheadBytes = max(0, size.bytes - end)
    usedBytes = allocatedBytes(in: directory) - aheadBytes
  }

  func overhead(events: Int, payloadBytes: Int) -> Double {
    Double(usedBytes - events * payloadBytes) / Double(max(1, events))
  }

  private static func number(_ bytes: [UInt8], at position: Int) -> UInt64 {
    bytes.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: UInt64.self)) }
  }
}

extension [UInt8] {
  /// A file's bytes, if it has exactly this many.
  fileprivate init?(named path: String, count: Int) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    self.init(repeating: 0, count: count)
    guard read(descriptor, &self, count) == count else { return nil }
  }
}
