/// The file `tail`, in which a writer publishes how far the log is durable to other processes. It is written in place and
/// never synced: it counts only while its writer lives. For that long it is marked as in use, for readers that may not open
/// the lock.
struct TailFile: ~Copyable {
  private let file: any File
  private let writer: UInt32
  private var last: TailNotice?

  /// Publishes that a writer is opening the store.
  init(directory: String, disk: any Disk) throws(LogStoreError) {
    let path = join(directory, FileName.tail)
    let writer = UInt32(truncatingIfNeeded: disk.random())
    let opening = TailNotice(
      end: DurableEnd(offset: 0, baseOffset: 0, position: 0), writer: writer, segment: 0, state: .opening)
    let file: any File
    if try disk.exists(path) {
      file = try disk.open(path, .readWrite)
      file.markInUse()
      try file.write(opening.encoded())
    } else {
      try disk.replace(path, with: opening.encoded())
      file = try disk.open(path, .readWrite)
      file.markInUse()
    }
    self.file = file
    self.writer = writer
    last = opening
  }

  /// - Parameter segment: the header checksum of the segment that the end is in.
  mutating func write(_ end: DurableEnd, segment: UInt32, _ state: TailNotice.State) throws(LogStoreError) {
    let notice = TailNotice(end: end, writer: writer, segment: segment, state: state)
    if notice == last { return }
    try file.write(notice.encoded())
    last = notice
  }
}
