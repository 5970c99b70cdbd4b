import ArgumentParser
import LogStore

@main
struct RegisPayCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "regispay", abstract: "An event-driven payment server on one durable log.",
    version: LogStore.version,
    subcommands: [Serve.self, Keys.self, Load.self, Parked.self, Unknown.self, Backup.self, Restore.self])
}
