import ArgumentParser
import LogStore

struct DeleteCursorCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "delete-cursor",
    abstract: "Delete the cursor of a consumer that no longer exists.",
    discussion: """
      Opens the store for writing, so it fails while another process writes to it. Prints `deleted cursor NAME, which was \
      at OFFSET` once the deletion is durable. Events don't change. A consumer that uses the name again starts as a new one. \
      `logstore stat` lists the cursors.
      """)

  @OptionGroup var location: StoreLocation

  @OptionGroup var newFiles: NewFileOptions

  @Option(help: ArgumentHelp("The cursor to delete.", valueName: "NAME"))
  var cursor: String

  func validate() throws { try checkName(cursor, "--cursor") }

  func run() async throws {
    var options = LogStore.Options()
    options.createIfMissing = false
    options.access = newFiles.access
    let store = try LogStore.open(location.directory, options: options)
    reportTornTail(store.recovery.tornTail)
    let checkpoint: UInt64
    do {
      guard let known = try store.reader.cursor(cursor) else {
        throw CommandFailure(
          message: "\(location.directory) has no cursor \(cursor); logstore stat lists those that it has")
      }
      checkpoint = known
      _ = try await store.append(Append([], cursors: [.deleting(cursor)]))
    } catch {
      // The first error is the one to throw.
      try? await store.close()
      throw error
    }
    try await store.close()
    let output = Output()
    try output.add { bytes in
      bytes.append(contentsOf: "deleted cursor \(cursor), which was at \(checkpoint)".escapedOnOneLine)
      bytes.append(UInt8(ascii: "\n"))
    }
    try output.flush()
  }
}
