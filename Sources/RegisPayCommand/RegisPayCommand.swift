import ArgumentParser

@main
struct RegisPayCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "regispay", abstract: "An event-driven payment server on one durable log.",
    subcommands: [Serve.self, Keys.self, Load.self, Parked.self, Unknown.self])
}
