/** What counts as a policy file, for all who read or write the policy folder. */

/** Names of policy files: hidden ones are somebody's temporary files. */
export const POLICY_FILE_NAME = /^[^.].*\.(ya?ml|json)$/

/** A file of this name in the folder says that it is meant to be empty: left by `policy delete` when it removed the last file. */
export const EMPTY_FOLDER_MARKER = '.headgate-empty'
