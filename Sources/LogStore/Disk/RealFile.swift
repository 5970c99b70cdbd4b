import CLinux
import Glibc

let pageByteCount = Int(getpagesize())

final class RealFile: File {
  let descriptor: Descriptor
  let path: String

  init(descriptor: Descriptor, path: String) {
    self.descriptor = descriptor
    self.path = path
  }

  func byteCount() throws(LogStoreError) -> UInt64 {
    UInt64(try descriptor.status(path, operation: "get the size of").st_size)
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
    try readAll(into: buffer, path, at: position) { rest, done in
      let count = pread(descriptor.number, rest.baseAddress, rest.count, off_t(position) + off_t(done))
      return count < 0 ? -Int(errno) : count
    }
  }

  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
    try writeAll(bytes, path) { rest, done in
      let count = pwrite(descriptor.number, rest.baseAddress, rest.count, off_t(position) + off_t(done))
      return count < 0 ? -Int(errno) : count
    }
  }

  func sync() throws(LogStoreError) {
    // Not even EINTR is retried: the pages may have been marked clean meanwhile.
    if fdatasync(descriptor.number) != 0 { throw failure("sync", path, errno) }
  }

  func markInUse() {
    // On a file system without such locks, a process that may not lock sees no writer, and reads only what is proven
    // without one.
    _ = clinux_mark_in_use(descriptor.number)
  }

  func isInUse() throws(LogStoreError) -> Bool {
    switch clinux_is_in_use(descriptor.number) {
    case 0: return false
    case EAGAIN: return true
    case let code: throw failure("look for a lock on", path, code)
    }
  }

  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool {
    while true {
      switch clinux_allocate(descriptor.number, byteCount) {
      case 0: return true
      case EINTR: continue
      case EOPNOTSUPP, ENOSYS: return false
      case let code: throw failure("reserve space for", path, code)
      }
    }
  }

  func startWriteback(at position: UInt64, byteCount: UInt64) {
    // The sync that follows reports a failure.
    _ = clinux_start_writeback(descriptor.number, position, byteCount)
  }

  func pollWriteback(at position: UInt64, byteCount: UInt64, microseconds: UInt32) {
    // On a kernel that can't tell, the sync does the waiting.
    _ = clinux_poll_writeback(descriptor.number, position, byteCount, microseconds &* 1000)
  }

  func resize(to byteCount: UInt64) throws(LogStoreError) {
    while ftruncate(descriptor.number, off_t(byteCount)) != 0 {
      let code = errno
      if code != EINTR { throw failure("resize", path, code) }
    }
  }

  func map(byteCount: Int) throws(LogStoreError) -> Mapping {
    if byteCount == 0 { return Mapping(bytes: UnsafeRawBufferPointer(start: nil, count: 0)) { _ in } }
    let identity = try FileIdentity(descriptor.number, path)
    let memory = mmap(nil, byteCount, PROT_READ, MAP_SHARED, descriptor.number, 0)
    guard let memory, memory != MAP_FAILED else { throw failure("map", path, errno) }
    guard let region = clinux_region_add(memory, UInt64(byteCount)).map(FaultRegion.init) else {
      munmap(memory, byteCount)
      throw failure("map", path, ENOMEM)
    }
    let bytes = UnsafeRawBufferPointer(start: memory, count: byteCount)
    // Proof for the address: the closures belong to the mapping, so they live no longer than the memory.
    let address = UInt(bitPattern: memory)
    let isRandom = SharedFlag()
    @Sendable func advisePages(_ range: Range<Int>, _ code: Int32) {
      let start = range.lowerBound & ~(pageByteCount - 1)
      _ = madvise(UnsafeMutableRawPointer(bitPattern: address + UInt(start)), range.upperBound - start, code)
    }
    let source = MappedFile(path: path, identity: identity)
    let faults = Mapping.Faults(region: region) { position in
      source.reason(at: position)
    } heal: {
      defer { if isRandom.isSet { advisePages(0..<byteCount, MADV_RANDOM) } }
      return source.heal(region)
    } isOfOtherFile: {
      source.isOther(byteCount: byteCount)
    }
    @Sendable func advise(_ advice: Mapping.Advice) {
      switch advice {
      case .randomAccess:
        isRandom.set()
        advisePages(0..<byteCount, MADV_RANDOM)
      case .readAhead(let range): advisePages(range, MADV_WILLNEED)
      case .keepReady(let range):
        advisePages(range, MADV_HUGEPAGE)
        advisePages(range, MADV_POPULATE_READ)
      }
    }
    return Mapping(bytes: bytes, advise: advise, faults: faults) { bytes in
      clinux_region_remove(region.pointer)
      munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
    }
  }
}

extension RealFile {
  func checkPath(_ path: String) throws(LogStoreError) {
    let own = try descriptor.status(path)
    guard let named = fileStatus(at: path) else {
      let code = errno
      guard code == ENOENT || code == ENOTDIR else { throw failure("look for", path, code) }
      throw .segmentLost(file: path, reason: "it is not there any more")
    }
    guard own.st_dev == named.st_dev, own.st_ino == named.st_ino else {
      throw .segmentLost(file: path, reason: "another file is in its place")
    }
  }

  func isCached(at position: UInt64, byteCount: Int) -> Bool {
    // Without a size or a mapping the answer is yes, and the caller leaves the cache as it is. Its own read reports the error.
    guard byteCount > 0, let size = try? self.byteCount(), position < size else { return true }
    let count = min(byteCount, Int(size - position))
    let memory = mmap(nil, count, PROT_READ, MAP_SHARED, descriptor.number, off_t(position))
    guard let memory, memory != MAP_FAILED else { return true }
    defer { munmap(memory, count) }
    var pages = [UInt8](repeating: 0, count: (count + 4095) / 4096)
    // This touches no page.
    guard mincore(memory, count, &pages) == 0 else { return true }
    return pages.contains { $0 & 1 != 0 }
  }

  func dropFromCache(at position: UInt64, byteCount: UInt64) {
    _ = posix_fadvise(descriptor.number, off_t(position), off_t(byteCount), POSIX_FADV_DONTNEED)
  }
}
