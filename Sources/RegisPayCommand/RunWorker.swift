import ArgumentParser
import Foundation
import RegisPay

/// `regispay worker`: makes the calls of steps for a server that runs with `--steps-from broker`.
struct RunWorker: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker",
    abstract: "Make the calls to the PSP and the notification service for a server, and take them from a broker.",
    discussion:
      """
      A server that runs with --steps-from broker makes no calls itself. Any number of workers take the steps from its queues; the \
      server decides for each what is to be done, and records what came of it. A worker has no data of its own: it may be killed at \
      any time, and what it had in hand goes to another one.

      Each option can also be set by an environment variable (REGISPAY_PSP_URL for --psp-url, or REGISPAY_SERVER_KEY_FILE for a file \
      with the value of --server-key) and by a systemd credential (regispay.server-key).

      SIGTERM, SIGINT or SIGHUP stops it: it takes no more, and finishes the calls in flight.
      """)

  @OptionGroup var connection: BrokerConnectionArguments

  @Option(help: ArgumentHelp("The server's address, such as https://pay.example. Needed.", valueName: "url"))
  var server: String?

  @Option(
    help: ArgumentHelp(
      "An API key with scope work, if the server asks for one.",
      discussion:
        "Other users of the machine can read the command line: name a file with it in REGISPAY_SERVER_KEY_FILE instead.",
      valueName: "key"))
  var serverKey: String?

  @OptionGroup(title: "TLS with the server") var tls: ClientTLSOptions

  @Option(
    help: ArgumentHelp(
      "A step to take: create, settle, cancel, notify or refund; repeat the option for several. The default is all.",
      valueName: "step"))
  var step: [PaymentStep] = []

  @Option(help: ArgumentHelp("Messages of a step that the worker has at once.", valueName: "count"))
  var prefetch = 64

  @Option(help: ArgumentHelp("The PSP's base URL; needed for all steps but notify.", valueName: "url"))
  var pspURL: String?

  @Option(
    help: ArgumentHelp("The notification service's base URL; needed for the step notify.", valueName: "url"))
  var notificationsURL: String?

  @OptionGroup var tokens: ServiceTokens

  @Option(
    help: ArgumentHelp(
      "Seconds a call may take. If the server's --call-timeout is less, that holds.", valueName: "seconds"))
  var callTimeout = 10.0

  @Option(
    help: ArgumentHelp(
      "Seconds a stop may take. The calls that are unfinished then are made again.", valueName: "seconds"))
  var stopTimeout = 15

  @OptionGroup var logLines: LogLineArguments

  func validate() throws {
    if let server { try checkURL(server, of: "--server") }
    if let pspURL { try checkURL(pspURL, of: "--psp-url") }
    if let notificationsURL { try checkURL(notificationsURL, of: "--notifications-url") }
    try checkToken(serverKey, of: "--server-key")
    guard (1...1_000).contains(prefetch) else { throw ValidationError("--prefetch must be 1 to 1000") }
    guard (0.01...86_400).contains(callTimeout) else {
      throw ValidationError("--call-timeout must be 0.01 to 86400 seconds")
    }
    guard (1...3_600).contains(stopTimeout) else { throw ValidationError("--stop-timeout must be 1 to 3600 seconds") }
  }

  /// Whether the options fit each other. Separate from ``validate()``, which also checks each source of settings alone.
  private func checkTogether() throws {
    guard connection.isGiven else { throw ValidationError("--broker is needed") }
    guard let server else { throw ValidationError("--server is needed") }
    try tls.checkFit(server)
    if steps.contains(.notify), notificationsURL == nil {
      throw ValidationError("--notifications-url is needed for the step notify")
    }
    if steps != [.notify], pspURL == nil { throw ValidationError("--psp-url is needed for all steps but notify") }
  }

  /// The given arguments, with those that the environment and systemd's credentials give beside them.
  static func arguments(_ given: [String], environment: [String: String]) throws(SettingsError) -> [String] {
    let definitions = SettingDefinitions.options(of: Self.self)
    let found = Settings.read(definitions, file: nil, environment: environment)
    guard found.mistakes.isEmpty else { throw SettingsError(found.mistakes) }
    let other = found.settings.filter { setting in
      !given.contains { $0 == "--\(setting.name)" || $0.hasPrefix("--\(setting.name)=") }
    }
    for setting in other {
      do {
        _ = try parse(setting.arguments)
      } catch {
        let message = setting.definition.isSecret ? "\(setting.name) can't be used" : message(for: error)
        throw SettingsError(["\(setting.source): \(message)"])
      }
    }
    return other.flatMap(\.arguments) + given
  }

  private var steps: [PaymentStep] { step.isEmpty ? PaymentStep.allCases : PaymentStep.allCases.filter(step.contains) }

  private func options() throws -> WorkerOptions {
    guard let broker = try connection.options() else { throw ValidationError("--broker is needed") }
    var options = WorkerOptions(broker: broker, serverURL: Serve.withoutSlash(server ?? ""))
    options.serverKey = serverKey
    options.serverTLS = tls.clientTLS
    options.steps = steps
    options.prefetch = prefetch
    options.pspURL = pspURL.map(Serve.withoutSlash)
    options.pspToken = tokens.pspToken
    options.notificationsURL = notificationsURL.map(Serve.withoutSlash)
    options.notificationsToken = tokens.notificationsToken
    options.callTimeLimit = .seconds(callTimeout)
    options.stopLimit = .seconds(max(1, stopTimeout - 3))
    return options
  }

  func run() async throws {
    try checkTogether()
    tls.checkFiles()
    LogOutput.useFormat(logLines.logFormat)
    ServerProcess.ignoreWriteSignals()
    let signals = ServerProcess.stopSignals(endsOnHangup: true)
    ServerProcess.end(on: signals)
    ServerProcess.prepare()
    do {
      var logger = ServerProcess.logger
      logger.logLevel = logLines.logLevel
      let worker = try Worker(try options(), logger: logger)
      try await ServerProcess.run(signals, stopTimeout: stopTimeout, stop: worker.stop) { _ in
        await worker.run(onReady: { ServerProcess.announce("The worker is ready: steps come from the broker") })
      }
    } catch {
      fail("\(error)")
    }
  }
}

extension PaymentStep: ExpressibleByArgument {}
