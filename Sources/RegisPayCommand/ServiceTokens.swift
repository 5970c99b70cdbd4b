import ArgumentParser

/// The secrets for the services that are called: the same for every command that calls them.
struct ServiceTokens: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A secret that is sent to the PSP as Authorization: Bearer.",
      discussion:
        "Other users of the machine can read the command line: name a file with it in REGISPAY_PSP_TOKEN_FILE instead.",
      valueName: "token"))
  var pspToken: String?

  @Option(
    help: ArgumentHelp(
      "A secret that is sent to the notification service as Authorization: Bearer.",
      discussion: "As for --psp-token, name a file with it in REGISPAY_NOTIFICATIONS_TOKEN_FILE instead.",
      valueName: "token"))
  var notificationsToken: String?

  func validate() throws {
    try checkToken(pspToken, of: "--psp-token")
    try checkToken(notificationsToken, of: "--notifications-token")
  }
}
