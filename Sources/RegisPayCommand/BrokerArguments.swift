import ArgumentParser
import RegisPay

/// The broker that integration events are published to.
struct BrokerArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Publish integration events to this RabbitMQ broker: amqp://user@host:port/vhost, or amqps:// for TLS.",
      discussion: "Name several of a cluster, separated by commas or by repeating the option: they are tried in turn.",
      valueName: "url"))
  var broker: [String] = []

  @Option(
    help: ArgumentHelp(
      "The user's password at the broker; the default is guest.",
      discussion: "As for --psp-token, name a file with it in REGISPAY_BROKER_PASSWORD_FILE instead.",
      valueName: "password"))
  var brokerPassword: String?

  @Option(
    help: ArgumentHelp("What the names of the exchanges begin with; an event's type follows.", valueName: "prefix"))
  var brokerExchangePrefix = BrokerOptions.referencePrefix

  @Option(
    help: ArgumentHelp(
      "How messages are written: masstransit, cloudevents or cloudevents-binary.",
      discussion: """
        masstransit is the envelope of MassTransit 8; cloudevents is CloudEvents 1.0 in structured mode, all of it JSON; \
        cloudevents-binary has the attributes of CloudEvents 1.0 as headers.
        """,
      valueName: "format"))
  var brokerFormat = BrokerOptions.Format.masstransit

  @Option(
    help: ArgumentHelp(
      "An event type to publish, such as PaymentCompleted; repeat the option for several.",
      discussion:
        "Without this option all are; none alone publishes none. A type that no queue gets keeps a payment's later events waiting.",
      valueName: "type"))
  var brokerEvent: [String] = []

  @Option(
    help: ArgumentHelp(
      "What becomes of a message that no queue gets: wait or skip.",
      discussion: """
        wait: it is sent again until a queue gets it, and the payment's later events wait, so nothing is lost. skip: it counts \
        as published, as with other publishers.
        """,
      valueName: "choice"))
  var brokerUnroutable = BrokerOptions.Unroutable.wait

  @Option(
    help: ArgumentHelp(
      "Where steps are taken from: log, or broker.",
      discussion: "With broker the server makes no calls: processes of regispay worker do, and take them from queues.",
      valueName: "source"))
  var stepsFrom = StepsFrom.log

  @Option(
    help: ArgumentHelp("Root certificates that may vouch for a broker with TLS, in PEM.", valueName: "file"))
  var brokerRoots = "/etc/ssl/certs/ca-certificates.crt"

  func validate() throws {
    do throws(BrokerOptionsError) {
      // Checks also what is given without a broker, as each source of settings is checked alone.
      var options = try BrokerOptions(broker.isEmpty ? ["amqp://localhost"] : broker)
      try apply(to: &options)
    } catch {
      throw ValidationError("\(error)")
    }
    guard let brokerPassword else { return }
    guard !brokerPassword.isEmpty, brokerPassword.utf8.count <= 1_000, !brokerPassword.utf8.contains(0) else {
      throw ValidationError("--broker-password must be 1 to 1000 bytes without a zero")
    }
  }

  /// Whether the options fit each other.
  func checkTogether() throws {
    if brokerPassword != nil, broker.isEmpty { throw ValidationError("--broker-password needs --broker") }
    if !brokerEvent.isEmpty, broker.isEmpty { throw ValidationError("--broker-event needs --broker") }
    if stepsFrom == .broker, broker.isEmpty { throw ValidationError("--steps-from broker needs --broker") }
    if brokerEvent == [BrokerOptions.noTypes], stepsFrom == .log {
      throw ValidationError("--broker-event none needs --steps-from broker: without both the broker gets nothing")
    }
  }

  /// Nil without a broker.
  var options: BrokerOptions? {
    guard !broker.isEmpty else { return nil }
    do throws(BrokerOptionsError) {
      var options = try BrokerOptions(broker)
      try apply(to: &options)
      return options
    } catch {
      // validate() has refused what can't be read.
      return nil
    }
  }

  private func apply(to options: inout BrokerOptions) throws(BrokerOptionsError) {
    options.password = brokerPassword ?? options.password
    options.format = brokerFormat
    options.unroutable = brokerUnroutable
    options.roots = brokerRoots
    try options.setExchangePrefix(brokerExchangePrefix)
    try options.setTypes(brokerEvent)
  }
}

enum StepsFrom: String, CaseIterable, ExpressibleByArgument {
  case log, broker
}

extension BrokerOptions.Format: ExpressibleByArgument {}
extension BrokerOptions.Unroutable: ExpressibleByArgument {}
