import ArgumentParser
import RegisPay

/// The broker that integration events are published to.
struct BrokerArguments: ParsableArguments {
  @OptionGroup var connection: BrokerConnectionArguments

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

  func validate() throws {
    do throws(BrokerOptionsError) {
      // Checks also what is given without a broker, as each source of settings is checked alone.
      var options = try BrokerOptions(["amqp://localhost"])
      try apply(to: &options)
    } catch {
      throw ValidationError("\(error)")
    }
  }

  /// Whether the options fit each other.
  func checkTogether() throws {
    if connection.brokerPassword != nil, !connection.isGiven {
      throw ValidationError("--broker-password needs --broker")
    }
    if !brokerEvent.isEmpty, !connection.isGiven { throw ValidationError("--broker-event needs --broker") }
    if stepsFrom == .broker, !connection.isGiven { throw ValidationError("--steps-from broker needs --broker") }
    if brokerEvent == [BrokerOptions.noTypes], stepsFrom == .log {
      throw ValidationError("--broker-event none needs --steps-from broker: without both the broker gets nothing")
    }
  }

  /// Nil without a broker.
  var options: BrokerOptions? {
    do throws(BrokerOptionsError) {
      guard var options = try connection.options() else { return nil }
      try apply(to: &options)
      return options
    } catch {
      // validate() has refused what can't be read.
      return nil
    }
  }

  private func apply(to options: inout BrokerOptions) throws(BrokerOptionsError) {
    options.format = brokerFormat
    options.unroutable = brokerUnroutable
    try options.setExchangePrefix(brokerExchangePrefix)
    try options.setTypes(brokerEvent)
  }
}

enum StepsFrom: String, CaseIterable, ExpressibleByArgument {
  case log, broker
}

extension BrokerOptions.Format: ExpressibleByArgument {}
extension BrokerOptions.Unroutable: ExpressibleByArgument {}
