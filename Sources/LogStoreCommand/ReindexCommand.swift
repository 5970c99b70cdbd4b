import ArgumentParser
import LogStore

struct ReindexCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reindex",
    abstract: "Rebuild the index from the log.",
    discussion: "Opens the store for writing, so it fails while another process writes to it. The log isn't changed.")

  @OptionGroup var location: StoreLocation

  @OptionGroup var newFiles: NewFileOptions

  func run() async throws {
    let progress = ProgressLine("indexing")
    let report: ReindexReport
    do throws(LogStoreError) {
      report = try LogStore.reindex(location.directory, access: newFiles.access) { progress.show($0, of: $1) }
    } catch {
      progress.clear()
      throw error
    }
    progress.clear()
    let output = Output()
    try output.add("indexed \(report.segments) segments, \(report.indexBytes) bytes of index\n")
    try output.flush()
  }
}
