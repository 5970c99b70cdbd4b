/// The file `tail`, by which a writer tells other processes how far the log is durable. Written in place, never synced:
/// it counts only while its writer lives.
struct TailFile: ~Copyable {
  private let file: any File
  private let writer: UInt64
  private var last: TailNotice?

  /// Tells whoever looks that a writer is opening the store.
  init(directory: String, disk: any Disk) throws(LogStoreError) {
    let path = join(directory, FileName.tail)
    let writer = disk.random()
    let opening = TailNotice(
      end: DurableEnd(offset: 0, baseOffset: 0, position: 0), writer: writer, state: .opening)
    let file: any File
    if try disk.exists(path) {
      file = try disk.open(path, .readWrite)
      try file.write(opening.encoded())
    } else {
      try disk.replace(path, with: opening.encoded())
      file = try disk.open(path, .readWrite)
    }
    self.file = file
    self.writer = writer
    last = opening
  }

  mutating func write(_ end: DurableEnd, _ state: TailNotice.State) throws(LogStoreError) {
    let notice = TailNotice(end: end, writer: writer, state: state)
    if notice == last { return }
    try file.write(notice.encoded())
    last = notice
  }
}
