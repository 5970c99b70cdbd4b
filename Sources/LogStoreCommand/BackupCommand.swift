import ArgumentParser
import Glibc
import LogStore

struct BackupCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "backup",
    abstract: "Copy the store as it is now, also while another process writes to it.",
    discussion: """
      Copies every event that is durable at the start, checks each byte, and prints how far the backup goes: `backed up \
      events 0..<OFFSET, …`. It doesn't take the writer's lock.

      To a directory, finished segments are copied once. The next run reads and checks what is there, and copies what is \
      new and what has gone bad. If a run fails or is killed, the previous backup stays valid, and the next run continues \
      with what was copied. It refuses a directory that holds something else, the backup of another store, or the backup \
      of other events of this store.

      To a file, the whole backup is one stream. It is written under the name with .tmp appended, and then replaces an \
      older backup. It refuses to run if that name has anything but an unfinished backup. It refuses to replace a backup \
      that goes further than the log, that has other events than the log, or that is damaged, unless --replace is given. \
      To standard output it writes the same stream, and prints its line to standard error; if the reader closes the pipe \
      before the end, the exit code is 1.
      """)

  @OptionGroup var location: StoreLocation

  @OptionGroup var newFiles: NewFileOptions

  @Option(
    help: ArgumentHelp(
      "An existing directory, or a name that ends with a slash; - for standard output; otherwise a file.",
      valueName: "dir/|file|-"))
  var to: String

  @Flag(help: "Replace a backup in a file even if it is damaged, or holds events that the log does not have.")
  var replace = false

  func validate() throws {
    if replace, to == "-" || isDirectory(to) { throw ValidationError("--replace is for a backup in a file") }
    if to.isEmpty { throw ValidationError("--to must name a directory, a file, or -") }
    if to == "-", isatty(STDOUT_FILENO) == 1 {
      throw ValidationError("--to - writes a backup to standard output, which is a terminal; redirect it")
    }
  }

  func run() async throws {
    let target: BackupLocation =
      to == "-" ? .descriptor(STDOUT_FILENO, name: "standard output") : isDirectory(to) ? .directory(to) : .file(to)
    let progress = ProgressLine("backing up")
    defer { progress.clear() }
    let report = try LogStore.backup(
      location.directory, to: target, access: newFiles.access, replaces: replace
    ) { progress.show($0, of: $1) }
    progress.clear()
    reportTornTail(report.tornTail)
    let kept =
      report.segmentsKept > 0 || target == .directory(to)
      ? ", \(report.segmentsKept) of \(report.segments) segments were there already" : ""
    let line = "backed up events 0..<\(report.endOffset), \(report.bytesCopied) bytes copied\(kept)"
    if to == "-" {
      complain(line)
    } else {
      let output = Output()
      try output.add(line + "\n")
      try output.flush()
    }
  }
}

struct RestoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore",
    abstract: "Create a store from a backup.",
    discussion: """
      Checks every byte of the backup that it uses, and everything in the new store, before the store gets its name. Until \
      then the store is in a directory with .restoring appended to its name. The next run replaces what a killed run left \
      there, and refuses anything else. Prints `restored events 0..<OFFSET, …`.

      The restored store is the same store, with the same id: write to only one of the two from then on. Cursors have the \
      checkpoints that they had at that offset. The next writer, or `logstore reindex`, builds the index.
      """)

  @Option(help: ArgumentHelp("The backup; - for standard input.", valueName: "dir|file|-"))
  var from: String

  @OptionGroup var location: StoreLocation

  @OptionGroup var newFiles: NewFileOptions

  @Option(
    help: ArgumentHelp(
      "Leave out the event at this offset and all later ones, even if it was appended together with earlier ones.",
      valueName: "offset"))
  var until: UInt64?

  func validate() throws {
    if from.isEmpty { throw ValidationError("--from must name a directory, a file, or -") }
  }

  func run() async throws {
    let source: BackupLocation =
      from == "-"
      ? .descriptor(STDIN_FILENO, name: "standard input") : isDirectory(from) ? .directory(from) : .file(from)
    let progress = ProgressLine("restoring")
    defer { progress.clear() }
    let report = try LogStore.restore(from: source, to: location.directory, until: until, access: newFiles.access) {
      progress.show($0, of: $1)
    }
    progress.clear()
    let output = Output()
    try output.add(
      "restored events 0..<\(report.endOffset), \(report.segments) segments, \(report.bytes) bytes copied\n")
    try output.flush()
  }
}

/// Whether a path is an existing directory, or ends as one.
private func isDirectory(_ path: String) -> Bool {
  path.hasSuffix("/") || fileStatus(at: path).map { $0.st_mode & S_IFMT == S_IFDIR } ?? false
}
