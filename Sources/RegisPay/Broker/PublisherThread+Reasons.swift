/// What is wrong, and what to do, for a person.
extension PublisherThread {
  static let noConfirms =
    "the broker has confirmed no message for more than 10 seconds: a queue may have lost most of its members, or its disk is slow"
  static let refusal =
    "the broker has refused a message (nack): a queue that is bound to it may be full and reject more"
    + " (x-overflow: reject-publish); empty it or raise its limit"

  static func reason(of failure: BrokerConnection.Failure, at url: BrokerURL) -> String {
    switch failure.code {
    case 320?: "the broker at \(url.address) closes the connection: \(failure.reason)"
    case 403?: "the broker at \(url.address) refuses the user \(url.user): \(failure.reason)"
    case 404?: "an exchange was deleted and is declared again: \(failure.reason)"
    case 530?: "the broker at \(url.address) refuses the virtual host \(url.vhost): \(failure.reason)"
    case let code?: "the broker at \(url.address) ended the connection with \(code): \(failure.reason)"
    case nil: "no connection to the broker at \(url.address): \(failure.reason)"
    }
  }

  static func reason(ofDeclaration failure: BrokerConnection.Failure) -> String {
    switch failure.code {
    case 403?: "the user may not declare it or what it is bound to: \(failure.reason)"
    case 406?:
      "it, or an exchange that it is bound to, exists with other properties; delete that one: \(failure.reason)"
    default: "it can't be declared: \(failure.reason)"
    }
  }

  static func reason(ofQueue name: String, _ failure: BrokerConnection.Failure) -> String {
    switch failure.code {
    case 403?: "the user may not declare or bind the queue \(name): \(failure.reason)"
    case 406?: "the queue \(name) exists with other properties; delete it: \(failure.reason)"
    default: "the queue \(name) can't be declared: \(failure.reason)"
    }
  }

  static func reason(ofReturn reason: String, hasStepQueues: Bool) -> String {
    if hasStepQueues {
      return "the queue of a step, or its binding, was lost (\(reason)): it is declared again before the next try"
    }
    return
      "no queue gets its messages (\(reason)): bind a queue to it, name the types to publish with --broker-event, or start with --broker-unroutable skip"
  }

  static func reason(ofBlock reason: String) -> String {
    "the broker takes no messages (\(reason)): it goes on when it has memory and disk space again"
  }
}
