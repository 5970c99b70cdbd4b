import ArgumentParser
import RegisPay

/// `regispay simulator`: the simulated PSP and notification service, without a payment server.
struct RunSimulator: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulator",
    abstract: "Run the simulated PSP and notification service by themselves.",
    discussion:
      """
      A server on another port or machine calls them as it would call real ones:

      regispay serve --psp-url http://127.0.0.1:9090/psp --notifications-url http://127.0.0.1:9090/notifications

      On an address that other machines can reach, give the server a key of scope operate (regispay keys create --dir, with the \
      directory of the simulator) as --psp-token and --notifications-token.

      SIGTERM, SIGINT or SIGHUP stops it: it finishes requests in flight and closes its log.
      """)

  @Option(
    help: ArgumentHelp(
      "The simulator's own data directory; created if it does not exist. Not that of a server.",
      valueName: "directory"))
  var dir = "./simulator-data"

  @Option(help: "The address to listen on.")
  var host = "127.0.0.1"

  @Option(help: "The port to listen on; 0 means any free port.")
  var port: UInt16 = 9090

  @Option(
    help: ArgumentHelp(
      "What to simulate, psp or notifications; repeat the option for both.", valueName: "service"))
  var service = Simulator.Service.allCases

  @Option(
    help: ArgumentHelp(
      "Faults that the PSP begins with: the JSON that PUT /psp/api/faults takes.", valueName: "json"),
    transform: { try faults($0, of: "--psp-faults") })
  var pspFaults: Faults?

  @Option(
    help: ArgumentHelp("As --psp-faults, for the notification service.", valueName: "json"),
    transform: { try faults($0, of: "--notifications-faults") })
  var notificationsFaults: Faults?

  @OptionGroup var tls: TLSArguments
  @OptionGroup var logFiles: LogFileArguments
  @OptionGroup var logLines: LogLineArguments
  @OptionGroup var hostAndStop: HostAndStopArguments

  @Flag(
    help: "Start without API keys on an address other machines can reach. Anybody who can reach it can make charges."
  )
  var insecure = false

  @OptionGroup(title: "Limits")
  var limitArguments: LimitArguments

  func validate() throws {
    try limitArguments.checkTogether()
    try tls.checkTogether()
    for (option, faults, needed) in [
      ("--psp-faults", pspFaults, Simulator.Service.psp),
      ("--notifications-faults", notificationsFaults, .notifications),
    ] where faults != nil && !service.contains(needed) {
      throw ValidationError("\(option) needs --service \(needed.rawValue)")
    }
  }

  func run() async throws {
    LogOutput.useFormat(logLines.logFormat)
    ServerProcess.ignoreWriteSignals()
    let signals = ServerProcess.stopSignals(endsOnHangup: true)
    ServerProcess.end(on: signals)
    ServerProcess.prepare()
    do {
      let server = try SimulatorServer.open(options, logger: ServerProcess.logger)
      try await ServerProcess.run(signals, stopTimeout: hostAndStop.stopTimeout, stop: server.stop) { onOverdue in
        try await server.run(
          onOverdue: onOverdue, onReady: { url in ServerProcess.announce("The simulator is ready at \(url)") })
      }
    } catch {
      fail("\(error)")
    }
  }

  private var options: SimulatorOptions {
    var options = SimulatorOptions(directory: dir)
    options.host = host
    options.port = Int(port)
    options.services = Set(service)
    options.faults[.psp] = pspFaults
    options.faults[.notifications] = notificationsFaults
    options.tls = tls.files()
    options.segmentBytes = logFiles.segmentBytes ?? options.segmentBytes
    options.scrubBytesPerSecond = logFiles.scrubRate
    options.logLevel.current = logLines.logLevel
    options.allowedHosts = hostAndStop.allowedHost
    options.stopLimit = .seconds(hostAndStop.stopTimeout)
    options.isInsecure = insecure
    options.limits = limitArguments.limits(isLoopback: options.isLoopback)
    return options
  }

  private static func faults(_ text: String, of option: String) throws -> Faults {
    do throws(FaultsError) {
      return try Faults(text: text)
    } catch {
      throw ValidationError("\(option): \(error)")
    }
  }
}

extension Simulator.Service: ExpressibleByArgument {}
