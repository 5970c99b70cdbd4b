import ArgumentParser
import Glibc
import LogStore

struct BackupCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "backup",
    abstract: "Copy the store as it is now, while another process writes to it or not.",
    discussion: """
      Copies every event that is durable when it begins, checks each byte of them, and prints up to which offset: \
      `backed up events 0..<OFFSET, …`. It doesn't ask for the writer's lock.

      To a directory, finished segments are copied once; the next run reads and checks what is there, and copies what is \
      new, and what has gone bad. When a run fails or is killed, the backup before it stays valid, and the next run goes \
      on with what was copied. A directory that holds something else is refused, and so is the backup of another store, \
      or of other events of this one.

      To a file, the whole backup is one stream, written under the name with .tmp behind it, that then takes the place of \
      an older one. The older one is refused if it goes further than the log, if the log has other events than it, or if it is \
      damaged; --replace takes its place even so. To standard output it is the same stream, and the line goes to standard error; a reader that goes away \
      before the end makes the exit code 1.
      """)

  @OptionGroup var location: StoreLocation

  @OptionGroup var made: MadeFiles

  @Option(
    help: ArgumentHelp(
      "A directory: one that is there, or a name that ends with a slash; - for standard output; else a file.",
      valueName: "dir/|file|-"))
  var to: String

  @Flag(help: "Replace a backup in a file also if it holds what the log does not, or is damaged.")
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
    let progress = Progress("backing up")
    defer { progress.clear() }
    let report = try LogStore.backup(
      location.directory, to: target, access: made.access, replaces: replace
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
    abstract: "Make a store from a backup.",
    discussion: """
      Checks every byte of the backup that it uses, and everything in the store that it made, before the store gets its \
      name; until then it is in the directory with .restoring behind its name, which the next run replaces. Prints \
      `restored events 0..<OFFSET, …`.

      The restored store is the same store, with the same id: from then on, write to one of the two only. Consumers' \
      cursors stand where they stood at that offset. The index is built by the next writer, or by `logstore reindex`.
      """)

  @Option(help: ArgumentHelp("The backup; - for standard input.", valueName: "dir|file|-"))
  var from: String

  @OptionGroup var location: StoreLocation

  @OptionGroup var made: MadeFiles

  @Option(
    help: ArgumentHelp(
      "Leave out the event at this offset and all behind it, also if it was appended together with events before it.",
      valueName: "offset"))
  var until: UInt64?

  func validate() throws {
    if from.isEmpty { throw ValidationError("--from must name a directory, a file, or -") }
  }

  func run() async throws {
    let source: BackupLocation =
      from == "-"
      ? .descriptor(STDIN_FILENO, name: "standard input") : isDirectory(from) ? .directory(from) : .file(from)
    let progress = Progress("restoring")
    defer { progress.clear() }
    let report = try LogStore.restore(from: source, to: location.directory, until: until, access: made.access) {
      progress.show($0, of: $1)
    }
    progress.clear()
    let output = Output()
    try output.add(
      "restored events 0..<\(report.endOffset), \(report.segments) segments, \(report.bytes) bytes copied\n")
    try output.flush()
  }
}

/// Whether a path is that of a directory, or means one.
private func isDirectory(_ path: String) -> Bool {
  path.hasSuffix("/") || fileStatus(at: path).map { $0.st_mode & S_IFMT == S_IFDIR } ?? false
}
