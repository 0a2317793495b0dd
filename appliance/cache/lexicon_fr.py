"""French words for the gates: data only, in the form of `lexicon_en`. The letters before an apostrophe are words of their own."""

from __future__ import annotations

STOP = """
le la les un une des du de d l au aux à et ou où mais donc or ni car que qu qui quoi dont ce cet cette ces c ça cela ceci il elle ils elles on nous
vous je j tu me m te t se s lui leur leurs mon ma mes ton ta tes son sa ses notre nos votre vos est sont suis es êtes sommes était étaient être été
ai as a avons avez ont avoir avait eu fait faire fais font peut peux peuvent pouvoir pourrait pourrais dois doit doivent devoir devrait faut va vais
vont aller dans en par pour sur avec sans sous vers chez entre pas ne n plus moins très bien si comme comment pourquoi quand combien quel quelle quels
quelles y toujours jamais rien aussi encore déjà ici là tout tous toute toutes même autre autres lequel laquelle lesquels afin alors ainsi il
cette lors depuis pendant avant après puis est-ce quelque quelques chaque peu beaucoup trop assez soit sera seront serait veut veux vouloir voudrais
"""
COMMON = """
question réponse gens personne personnes homme femme enfant enfants jour jours an ans année temps heure semaine mois maison travail argent ville pays
monde vie main tête chose choses nom partie type façon manière moyen problème exemple fin début raison cas lieu mot image livre voiture ordinateur
téléphone internet eau manger boire école médecin entreprise client prix coût numéro date fichier dossier programme utilisateur trouver chercher dire
voir savoir connaître venir prendre donner obtenir utiliser changer créer ouvrir fermer acheter vendre payer apprendre lire écrire nouveau nouvelle
vieux grand grande petit petite bon bonne mauvais long court rapide lent aujourd'hui demain hier vrai faux important possible facile difficile meilleur
"""
WEAK = """
meilleur meilleure meilleurs meilleures bon bonne bons bonnes mieux façon façons manière manières moyen moyens méthode raison raisons conseil conseils
idée idées gens personne personnes quelqu'un signifie veut dire définition expliquer explique dis trouver faire fait facilement rapidement simple possible
exactement vraiment actuellement important différence question réponse besoin exemple existe sert marche fonctionne permet grand principal principales
"""
NEGATORS = "pas sans jamais aucun aucune rien personne ni nul nulle guère non"
SOFT_NEGATORS = "éviter empêcher arrêter cesser interdire refuser exclure"
AGAINST = "combattre lutter soigner guérir supprimer enlever réduire éliminer vaincre traiter débarrasser annuler bloquer surmonter protéger finir"
NEGATION_IDIOMS = ("ou pas", "ou non", "pas seulement", "non seulement", "n est ce pas", "je ne sais pas", "je ne comprends pas")
CONTRACTIONS = {"aujourd'hui": "aujourdhui", "quelqu'un": "quelquun", "jusqu'à": "jusque", "c'est": "ce est", "qu'est": "que est", "qu'un": "que un", "d'accord": "daccord"}
IRREGULAR = """
yeux=oeil travaux=travail chevaux=cheval animaux=animal journaux=journal suis=être est=être sont=être était=être été=être ai=avoir a=avoir ont=avoir
vais=aller va=aller vont=aller peux=pouvoir peut=pouvoir veux=vouloir veut=vouloir dois=devoir doit=devoir fais=faire fait=faire mis=mettre met=mettre
pris=prendre prend=prendre ouvert=ouvrir ouvre=ouvrir ferme=fermer fermé=fermer écrit=écrire lu=lire vu=voir mort=mourir né=naître achète=acheter
"""
ANTONYMS = """
augmenter/diminuer augmenter/réduire augmenter/baisser hausse/baisse augmentation/diminution augmentation/réduction monter/descendre montée/descente
agrandir/réduire allonger/raccourcir grossir/maigrir élargir/rétrécir maximum/minimum maximal/minimal maximale/minimale max/min haut/bas haute/basse
supérieur/inférieur supérieure/inférieure plus/moins élevé/faible ouvrir/fermer ouvert/fermé ouverte/fermée ouverture/fermeture démarrer/arrêter
commencer/finir commencer/terminer commencer/arrêter début/fin lancer/arrêter premier/dernier première/dernière premiers/derniers tôt/tard avant/après
précédent/suivant précédente/suivante passé/futur ancien/nouveau ancienne/nouvelle vieux/jeune vieux/neuf vieille/jeune ancien/récent importer/exporter
importation/exportation import/export entrée/sortie entrer/sortir entrant/sortant arrivée/départ arriver/partir venir/aller intérieur/extérieur
interne/externe dedans/dehors acheter/vendre achat/vente acheteur/vendeur emprunter/prêter emprunteur/prêteur louer/acheter locataire/propriétaire
débit/crédit déposer/retirer dépôt/retrait revenus/dépenses recettes/dépenses bénéfice/perte gain/perte gagner/perdre offre/demande gauche/droite
gauche/droit est/ouest nord/sud horizontal/vertical ligne/colonne largeur/hauteur longueur/largeur avant/arrière devant/derrière pousser/tirer
télécharger/téléverser envoyer/recevoir envoi/réception expéditeur/destinataire émetteur/récepteur donner/prendre donner/recevoir accepter/refuser
approuver/rejeter accepter/rejeter autoriser/interdire permettre/interdire autorisé/interdit légal/illégal activer/désactiver activation/désactivation
allumer/éteindre brancher/débrancher connecter/déconnecter connexion/déconnexion attacher/détacher verrouiller/déverrouiller bloquer/débloquer
installer/désinstaller abonner/désabonner inscrire/désinscrire afficher/masquer montrer/cacher visible/invisible visible/caché chiffrer/déchiffrer
crypter/décrypter compresser/décompresser enregistrer/supprimer sauvegarder/supprimer sauvegarder/restaurer créer/supprimer créer/détruire
ajouter/supprimer ajouter/retirer ajouter/enlever additionner/soustraire multiplier/diviser addition/soustraction inclure/exclure insérer/supprimer
construire/démolir construire/détruire monter/démonter assembler/démonter ensemble/séparément unir/séparer fusionner/diviser remplir/vider plein/vide
charger/décharger chauffer/refroidir chaud/froid chaude/froide congeler/décongeler mouillé/sec humide/sec dur/mou facile/difficile simple/compliqué
fort/faible forte/faible plus/moins lourd/léger épais/mince épais/fin large/étroit profond/superficiel grand/petit grande/petite gros/petit gros/mince
long/court longue/courte clair/foncé clair/sombre blanc/noir jour/nuit matin/soir été/hiver printemps/automne rapide/lent rapidement/lentement vite/lentement
accélérer/ralentir proche/loin proche/lointain bon/mauvais bonne/mauvaise bien/mal meilleur/pire positif/négatif avantage/inconvénient
avantages/inconvénients aimer/détester aimer/haïr ami/ennemi heureux/malheureux content/triste rire/pleurer riche/pauvre cher/bon marché
gratuit/payant vrai/faux correct/incorrect valide/invalide réel/fictif vérité/mensonge succès/échec réussir/échouer victoire/défaite vivant/mort
vie/mort naissance/mort naître/mourir né/mort sain/malade santé/maladie aigu/chronique bénin/malin masculin/féminin homme/femme hommes/femmes
garçon/fille mari/femme père/mère fils/fille frère/soeur oncle/tante roi/reine parent/enfant parents/enfants prédécesseur/successeur professeur/élève
médecin/patient employeur/employé patron/employé embaucher/licencier attaque/défense victime/coupable coupable/innocent lire/écrire lecture/écriture
parler/écouter question/réponse demander/répondre cause/effet cause/conséquence causes/symptômes causes/conséquences symptômes/traitement
absolu/relatif actif/passif actif/inactif acide/basique automatique/manuel disponible/indisponible obligatoire/facultatif constant/variable
dangereux/sûr direct/indirect nationale/internationale célibataire/marié mariage/divorce brut/net privé/public permanent/temporaire avec/sans sur/sous
pour/contre même/différent pair/impair propre/sale frais/pourri cru/cuit sucré/salé sucré/amer bruyant/silencieux fatigué/reposé dormir/réveiller
inspirer/expirer confirmer/annuler réserver/annuler commander/annuler renouveler/résilier souscrire/résilier toujours/jamais souvent/rarement
hypertension/hypotension hyperglycémie/hypoglycémie hyperthyroïdie/hypothyroïdie surpoids/maigreur majeur/mineur singulier/pluriel tout/rien
"""
CONTRADICTORY = "sûr/dangereux vrai/faux autorisé/interdit légal/illégal possible/impossible valide/invalide correct/incorrect sain/malade"
SYNONYMS = """
voiture=auto=véhicule=automobile médecin=docteur téléphone=portable=mobile ordinateur=pc mot=mots prix=coût=tarif=coûte changer=modifier réinitialiser=changer
supprimer=effacer=enlever acheter=acquérir rapide=vite appartement=logement maison=logement argent=sous travail=emploi=boulot=métier
entreprise=société=firme erreur=problème=panne commencer=débuter=démarrer finir=terminer vacances=congés médicament=remède comprimé=pilule=cachet
photo=image=photographie mail=courriel=email=message fichier=document dossier=répertoire installer=configurer utiliser=employer=servir fabriquer=faire=créer
cuisiner=préparer=cuire=faire réparer=résoudre=corriger augmenter=accroître réduire=diminuer=baisser important=essentiel raison=cause façon=manière=moyen=méthode
différence=distinction fonctionner=marcher=fonctionne=marche obtenir=recevoir=avoir voyager=aller habiter=vivre maigrir=perdre=poids guérir=soigner=traiter
"""
QUESTION = (
    (r"combien de temps|combien (?:de |d )(?:jours|semaines|mois|années|ans|heures|minutes)|quelle est la durée|depuis quand|pendant combien", "how long"),
    (r"combien de fois|à quelle fréquence", "how often"),
    (r"quel âge|à quel âge", "how old"),
    (r"combien coûtent?|combien ça coûte|quel est le (?:prix|coût|tarif)|à combien", "how much"),
    (r"à quelle distance", "how far"),
    (r"combien (?:de |d )|quel est le nombre", "how many"),
    (r"combien", "how much"),
    (r"pourquoi|pour quelles? raisons?|quelle est la raison|quelles sont les raisons|quelle est la cause|quelles sont les causes", "why"),
    (r"quand|à quelle heure|en quelle année|quel jour|à quelle date|à quel moment", "when"),
    (r"où|dans quelle? (?:ville|pays|lieu)|à quel endroit", "where"),
    (r"comment|de quelle (?:façon|manière)|quel est le (?:meilleur )?moyen|quelle est la (?:meilleure )?(?:façon|manière|méthode)|que (?:dois|faut|puis)|"
     r"y a t il un moyen", "how"),
    (r"est ce que|est il", "yes or no"),
    (r"qui est ce qui|qui", "who"),
    (r"qu est ce que|qu est ce qui|que|quoi|quelle?s?|lequel|laquelle|lesquels", "what"),
)
PADDING_BEFORE = (
    r"(?:bonjour|bonsoir|salut|coucou|hello|cher monsieur|madame monsieur)(?: (?:à tous|tout le monde|madame|monsieur|l'équipe))?"
    r"(?= *[,.!:;\n-]| (?:je|comment|quel|quelle|quand|où|qui|pourquoi|pouvez|peux|est|j'ai|combien)\b|$)",
    r"(?:petite question|une (?:petite )?question|j'ai une (?:petite )?question)(?: \w+)?(?= *[,.!:;\n-])",
    r"(?:pouvez-vous|pourriez-vous|peux-tu|pourrais-tu|pouvez vous|pourriez vous|peux tu|est-ce que (?:vous pouvez|tu peux|quelqu'un peut))(?: s'il (?:vous|te) plaît)?"
    r" (?:me |m'|nous )?(?:dire|expliquer|indiquer|aider à comprendre)(?: s'il (?:vous|te) plaît)?(?: si)?",
    r"(?:je voudrais|j'aimerais|je veux|je souhaite|je souhaiterais|je voulais) (?:bien )?(?:savoir|demander|comprendre)(?: si)?",
    r"(?:je me demand(?:e|ais))(?: si)?",
    r"(?:savez-vous|sais-tu|savez vous|sais tu|quelqu'un sait|est-ce que quelqu'un sait)(?: si| (?=comment|où|quand|pourquoi|quel|quelle|qui|combien))",
    r"(?:s'il (?:vous|te) plaît|svp|stp|excusez-moi|excuse-moi|pardon|désolé de vous déranger|alors|dites-moi|dis-moi)(?= *,| (?:comment|où|quand|pourquoi|quel|quelle|qui|combien|est)\b)",
)
PADDING_AFTER = (
    r"(?:merci)(?: (?:d'avance|beaucoup|bien|par avance|à vous|à tous|pour votre aide|pour votre réponse))*",
    r"(?:s'il (?:vous|te) plaît|svp|stp|cordialement|bonne journée|n'est-ce pas|non)",
)
